import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import gradients, losses
from tests.gradients.networks import images_and_labels, network
from tests.models import quick_jit

PARAMS = {"head": {"bias": jnp.zeros(1), "kernel": jnp.zeros(2)}, "stem": {"kernel": jnp.zeros((1, 2))}}
# Of three linear objectives: gradients over (head bias, head kernel, stem kernel).
ROWS = np.float32([[1, 0, 2, 0, 2], [0, 0, -2, 4, 0], [0, 0, 0, 0, 0]])


def linear(params):
    head, stem = params["head"], params["stem"]
    return ROWS @ jnp.concatenate([head["bias"], head["kernel"], stem["kernel"].ravel()])


def by_hand(rows):
    norms = np.linalg.norm(rows, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return norms, np.nan_to_num(rows @ rows.T / norms[:, None] / norms)


def check(conflict, rows):
    norms, cosine = by_hand(rows)
    np.testing.assert_allclose(conflict.norms, norms, rtol=1e-6)
    np.testing.assert_allclose(conflict.cosine, cosine, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(conflict.angle, np.arccos(np.clip(cosine, -1, 1)), atol=1e-3)


def test_gradients_and_values():
    params = jax.tree.map(jnp.ones_like, PARAMS)
    values, got = gradients.objective_gradients(linear, params)
    np.testing.assert_allclose(values, ROWS.sum(1))
    np.testing.assert_allclose(got["head"]["kernel"], ROWS[:, 1:3])
    np.testing.assert_allclose(gradients.gram(got), ROWS @ ROWS.T)


def test_linear_objectives_by_hand():
    conflict = gradients.conflict(linear, PARAMS)
    check(conflict, ROWS)
    np.testing.assert_allclose(conflict.cosine[0, 1], -4 / 3 / 20**0.5, rtol=1e-6)
    np.testing.assert_allclose(conflict.norm_ratio[:2, :2], [[1, 3 / 20**0.5], [20**0.5 / 3, 1]], rtol=1e-6)
    np.testing.assert_array_equal(conflict.norm_ratio[2], [0, 0, 1])
    np.testing.assert_array_equal(conflict.norm_ratio[:, 2], [np.inf, np.inf, 1])


def test_layer_by_layer():
    layers = gradients.conflict_per_layer(linear, PARAMS)
    assert list(layers) == ["head", "stem"]
    check(layers["head"], ROWS[:, :3])
    check(layers["stem"], ROWS[:, 3:])
    leaves = gradients.conflict_per_layer(linear, PARAMS, depth=None)
    assert list(leaves) == ["head/bias", "head/kernel", "stem/kernel"]
    check(leaves["head/kernel"], ROWS[:, 1:3])
    assert leaves["head/kernel"].cosine[0, 1] == -1


def test_gradients_whose_product_float32_does_not_hold():
    products = np.float32([[1e-24, -1e-26], [-1e-26, 1e-28]])
    np.testing.assert_allclose(gradients.compare(products).cosine, [[1, -1], [-1, 1]], rtol=1e-6)


def test_nan_stays_nan():
    conflict = gradients.compare(np.float32([[np.nan, np.nan], [np.nan, 1]]))
    np.testing.assert_array_equal(np.isnan(conflict.cosine), [[True, True], [True, False]])
    np.testing.assert_array_equal(np.isnan(conflict.norm_ratio), [[True, True], [True, False]])


def test_through_the_library():
    """TRADES and the alignment of features on one batch: each gradient is that of its loss alone."""
    apply, params = network("convnet")
    x, y = images_and_labels(4)
    x_adv = np.clip(x + np.random.default_rng(1).uniform(-0.1, 0.1, x.shape), 0, 1).astype(np.float32)

    def objectives(params):
        outputs = apply(params, np.concatenate([x, x_adv]))
        z, logits = (jnp.split(rows, 2) for rows in outputs)
        return jnp.stack([jnp.mean(losses.cosine_alignment(*z)), jnp.mean(losses.trades(*logits, y))])

    got, alone = quick_jit(lambda p: (gradients.objective_gradients(objectives, p)[1],
                                      [jax.grad(lambda p, i=i: objectives(p)[i])(p) for i in (0, 1)]))(params)
    for i in (0, 1):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-5), got, alone[i])

    rows = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(a)]) for a in alone])
    norms, cosine = by_hand(rows.astype(np.float64))
    conflict, layers, whole = jax.jit(lambda got: (
        gradients.compare(gradients.gram(got)), gradients.gram_per_layer(got), gradients.gram(got)))(got)
    np.testing.assert_allclose(conflict.norms, norms, rtol=1e-3)
    np.testing.assert_allclose(conflict.cosine, cosine, atol=1e-4)
    assert set(layers) == set(params)
    np.testing.assert_allclose(sum(map(np.asarray, layers.values())), whole, rtol=1e-5)
    # The head sees no loss on the features.
    assert layers["linear"][0, 0] == 0


def test_errors():
    with pytest.raises(ValueError, match=r"objectives must give shape \[num_objectives\]; got \(\)"):
        gradients.conflict(lambda params: params.sum(), jnp.ones(2))
    with pytest.raises(ValueError, match="depth must be at least 1, or None for single arrays; got 0"):
        gradients.conflict_per_layer(linear, PARAMS, depth=0)
