import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.models import EmbeddingSpace
from tests.models import quick_jit

LABELS = np.array([2, 0, 2, 1, 0, 2, 5])  # Classes 1 and 5 have one image each.


def features(n=7, width=6):
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


@pytest.fixture(scope="module")
def space():
    module = EmbeddingSpace(embed_dim=8, num_heads=2)
    variables = quick_jit(module.init)(jax.random.key(0), features(), LABELS)
    # Biases and affine parameters off their initial zeros and ones, so that they count.
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    leaves = [p + 0.3 * rng.normal(size=p.shape).astype(np.float32) for p in leaves]
    return module, jax.tree.unflatten(tree, leaves)


def algorithm_1(params, z, labels, heads):
    """The paper's loops, in NumPy: over classes, then over heads."""
    p = jax.tree.map(np.asarray, params)
    s = z @ p["projection"]["kernel"] + p["projection"]["bias"]
    b = s.shape[1]
    t = np.zeros_like(s)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        group = s[rows]
        normed = (group - group.mean(1, keepdims=True)) / np.sqrt(group.var(1, keepdims=True) + 1e-6)
        normed = normed * p["norm"]["scale"] + p["norm"]["bias"]
        outputs = []
        for j in range(heads):
            q, k, v = (normed @ p["qkv"]["kernel"][:, c] + p["qkv"]["bias"][c] for c in (
                slice(i * b + j * b // heads, i * b + (j + 1) * b // heads) for i in range(3)))
            scores = np.exp(q @ k.T / np.sqrt(b / heads))
            outputs.append(scores / scores.sum(1, keepdims=True) @ v)
        t[rows] = group + np.concatenate(outputs, 1) @ p["out"]["kernel"] + p["out"]["bias"]
    return s, t


def test_one_masked_attention_is_the_loop_over_classes(space):
    module, variables = space
    got = quick_jit(module.apply)(variables, features(), LABELS)
    for a, b in zip(got, algorithm_1(variables["params"], features(), LABELS, 2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_rows_keep_the_batch_s_order(space):
    module, variables = space
    order = np.array([3, 6, 0, 2, 5, 1, 4])
    apply = quick_jit(module.apply)
    for a, b in zip(apply(variables, features()[order], LABELS[order]), apply(variables, features(), LABELS),
                    strict=True):
        np.testing.assert_allclose(a, b[order], rtol=1e-4, atol=1e-5)


def test_padding_rows_change_nothing(space):
    module, variables = space
    z = np.concatenate([features(), np.zeros((2, 6)), np.full((1, 6), 1e4)]).astype(np.float32)
    labels, mask = np.concatenate([LABELS, [2, 0, 0]]), np.arange(10) < 7
    padded = quick_jit(module.apply)(variables, z, labels, mask)
    for a, b in zip(padded, quick_jit(module.apply)(variables, features(), LABELS), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a[:7], b, rtol=1e-4, atol=1e-5)

    gradient = quick_jit(jax.grad(lambda z: jnp.sum(module.apply(variables, z, labels, mask)[1][:7] ** 2)))(z)
    np.testing.assert_array_equal(gradient[7:], 0)
    assert np.isfinite(gradient).all()


def test_zero_rows_have_finite_values_and_gradients(space):
    module, variables = space
    # No bias in L_e, so that the LayerNorm itself gets a row of zeros.
    params = variables["params"]
    params = params | {"projection": {"kernel": params["projection"]["kernel"], "bias": jnp.zeros(8)}}

    def loss(params, z):
        return jnp.sum(jnp.square(module.apply({"params": params}, z, LABELS)[1]))

    for leaf in jax.tree.leaves(quick_jit(jax.value_and_grad(loss, (0, 1)))(params, np.zeros((7, 6),
    np.float32))):
        assert np.isfinite(leaf).all()


def test_parameters_and_their_initial_values():
    params = quick_jit(EmbeddingSpace().init)(jax.random.key(0), features(4, 64), np.zeros(4, int))["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "projection": {"kernel": (64, 128), "bias": (128,)},
        "norm": {"scale": (128,), "bias": (128,)},
        "qkv": {"kernel": (128, 384), "bias": (384,)},
        "out": {"kernel": (128, 128), "bias": (128,)},
    }
    for layer, bound in (("projection", 64**-0.5), ("qkv", (6 / (128 + 384)) ** 0.5), ("out", 128**-0.5)):
        leaf = params[layer]["kernel"]
        assert 0.95 * bound < float(jnp.abs(leaf).max()) <= bound
    assert 0.9 * 64**-0.5 < float(jnp.abs(params["projection"]["bias"]).max()) <= 64**-0.5
    for layer in ("qkv", "out"):
        np.testing.assert_array_equal(params[layer]["bias"], 0)


def test_is_float32_on_narrow_features(space):
    module, variables = space
    got = quick_jit(module.apply)(variables, jnp.asarray(features(), jnp.bfloat16), LABELS)
    assert [a.dtype for a in got] == [jnp.float32] * 2


@pytest.mark.parametrize(("module", "labels", "mask", "message"), [
    (EmbeddingSpace(128, 3), LABELS, None, "embed_dim=128 and num_heads=3"),
    (EmbeddingSpace(8, 0), LABELS, None, "embed_dim=8 and num_heads=0"),
    (EmbeddingSpace(10**9), LABELS, None, "embed_dim must be at most 65536; got 1000000000"),
    (EmbeddingSpace(), LABELS + 0.5, None, "labels must be integers; got float"),
    (EmbeddingSpace(), LABELS[:6], None, r"labels must .* 7 rows of features; got shape \(6,\)"),
    (EmbeddingSpace(), LABELS, LABELS[:, None] > 0, r"mask must .* 7 rows of features; got shape \(7, 1\)"),
])
def test_errors(module, labels, mask, message):
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), features(), labels, mask)


def test_dropout_leaves_out_its_share_of_the_weights():
    """Of equal values v the attention's result is v times the weights kept, which are scaled up."""
    features, labels = jnp.ones((400, 3)), jnp.zeros(400, jnp.int32)
    space = EmbeddingSpace(embed_dim=4, num_heads=2, dropout=0.25)
    variables = quick_jit(space.init)(jax.random.key(0), features, labels)
    apply = quick_jit(lambda *arguments, key=None: space.apply(*arguments, key=key))
    projected, whole = apply(variables, features, labels)
    _, some = apply(variables, features, labels, key=jax.random.key(1))
    kept = (some - projected)[:, 0] / (whole - projected)[:, 0]
    np.testing.assert_allclose(kept.mean(), 1, atol=0.01)
    # 400 weights of 1/400, each 0 or 4/3: two heads mix into a row.
    assert 0.005 < kept.std() < 0.1
    np.testing.assert_array_equal(some, apply(variables, features, labels, key=jax.random.key(1))[1])
    plain = quick_jit(EmbeddingSpace(4, 2).apply)(variables, features, labels)
    np.testing.assert_array_equal(whole, plain[1])
