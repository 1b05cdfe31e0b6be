import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.models.batch_norm import BatchNorm
from tests.models import quick_jit


def images(shape=(4, 3, 5, 2), offset=0.0):
    return (np.random.default_rng(0).normal(size=shape) * [1.0, 3.0] + offset).astype(np.float32)


VARIABLES = {
    "params": {"scale": jnp.array([2.0, 0.5]), "bias": jnp.array([1.0, -1.0])},
    "batch_stats": {"mean": jnp.array([0.25, -0.5]), "var": jnp.array([4.0, 0.25])},
}


def train(x, **options):
    y, updates = BatchNorm(False, **options).apply(VARIABLES, x, mutable=["batch_stats"])
    return y, updates["batch_stats"]


def test_evaluation_uses_the_running_statistics():
    x = images()
    want = (x - [0.25, -0.5]) / np.sqrt(np.array([4.0, 0.25]) + 1e-5) * [2.0, 0.5] + [1.0, -1.0]
    np.testing.assert_allclose(BatchNorm(True).apply(VARIABLES, x), want, rtol=1e-5, atol=1e-5)


def test_training_normalises_with_the_biased_variance():
    x = images()
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    want = (x - mean) / np.sqrt(var + 1e-5) * [2.0, 0.5] + [1.0, -1.0]
    np.testing.assert_allclose(train(x)[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.0, 1.0])
def test_running_statistics_move_with_the_unbiased_variance(momentum):
    x = images()
    _, stats = train(x, momentum=momentum)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2), ddof=1)
    old = VARIABLES["batch_stats"]
    np.testing.assert_allclose(stats["mean"], momentum * old["mean"] + (1 - momentum) * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], momentum * old["var"] + (1 - momentum) * var, rtol=1e-5)


def test_statistics_do_not_cancel_where_the_mean_is_large():
    x = images((64, 2), offset=1e4)
    want = x.astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(train(x, momentum=0.0)[1]["var"], want, rtol=1e-4)


def test_statistics_are_float32_in_bfloat16():
    x = jnp.asarray(images(), jnp.bfloat16)
    y, stats = train(x, momentum=0.0, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    np.testing.assert_allclose(stats["var"], np.asarray(x, np.float64).var((0, 1, 2), ddof=1), rtol=1e-5)


def test_a_single_value_a_channel_has_variance_zero():
    y, stats = train(images((1, 1, 1, 2)), momentum=0.0)
    np.testing.assert_array_equal(y[0, 0, 0], [1.0, -1.0])
    np.testing.assert_array_equal(stats["var"], [0.0, 0.0])


def test_initial_values():
    x = images()
    for running in (True, False):
        variables = BatchNorm(running).init(jax.random.key(0), x)
        assert jax.tree.map(lambda v: v.tolist(), variables) == {
            "params": {"scale": [1.0, 1.0], "bias": [0.0, 0.0]},
            "batch_stats": {"mean": [0.0, 0.0], "var": [1.0, 1.0]}}


def test_gradient_goes_through_the_statistics():
    # The normalised batch does not change when x is shifted or scaled, so the gradient is orthogonal to both.
    x = images().astype(np.float32)
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    gradient = quick_jit(jax.grad(lambda x: (train(x, epsilon=0.0)[0] * weights).sum()))(x)
    np.testing.assert_allclose(gradient.sum((0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose((gradient * x).sum((0, 1, 2)), 0.0, atol=1e-4)
    assert float(jnp.abs(gradient).max()) > 0.01


def test_each_kind_of_images_has_its_own_statistics():
    natural, adversarial = images((4, 3, 5, 2)), images((4, 3, 5, 2), offset=3.0) * 2
    # Two blocks, each with two natural images and then two adversarial ones.
    both = np.concatenate([natural[:2], adversarial[:2], natural[2:], adversarial[2:]])
    y, stats = train(both, momentum=0.0, views=(2, 2))
    for kind, (x, rows) in enumerate(((natural, [0, 1, 4, 5]), (adversarial, [2, 3, 6, 7]))):
        alone, alone_stats = train(x, momentum=0.0)
        np.testing.assert_allclose(y[np.array(rows)], alone, rtol=1e-5, atol=1e-6)
        for name in ("mean", "var"):
            np.testing.assert_allclose(stats[name][kind], alone_stats[name], rtol=1e-5)


@pytest.mark.parametrize(("distance", "error"), [(1.0, 1e-6), (30.0, 3e-4)])
def test_the_running_mean_as_pivot_costs_what_the_docstring_says(distance, error):
    x = images((64, 2))
    mean = jnp.asarray(x.mean(0) + distance * x.std(0))
    variables = VARIABLES | {"batch_stats": VARIABLES["batch_stats"] | {"mean": mean}}
    _, updates = BatchNorm(False, momentum=0.0, pivot="running").apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(updates["batch_stats"]["mean"], x.mean(0), atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], x.astype(np.float64).var(0, ddof=1), rtol=error)


@pytest.mark.parametrize("options", [
    pytest.param({}, marks=pytest.mark.slow), pytest.param({"pivot": "running"}, marks=pytest.mark.slow),
    {"views": (2, 2)}])
def test_gradients_are_those_of_two_passes(options):
    with jax.enable_x64(True):
        x, weights = (np.asarray(images(offset=offset), np.float64) for offset in (5.0, 0.0))

        def normalised(x):
            blocks, kinds = options.get("views", (1, 1))
            rows = x.reshape(blocks, kinds, -1, *x.shape[1:])
            mean = rows.mean((0, 2, 3, 4), keepdims=True)
            var = jnp.square(rows - mean).mean((0, 2, 3, 4), keepdims=True)
            scale, bias = (VARIABLES["params"][name] for name in ("scale", "bias"))
            return ((rows - mean) * scale / jnp.sqrt(var + 1e-5) + bias).reshape(x.shape)

        def gradients(function):
            first = jax.grad(lambda x: jnp.sum(weights * jnp.sin(function(x))))
            return quick_jit(lambda x: (first(x), jax.grad(lambda x: jnp.sum(weights * first(x)))(x)))(x)

        for got, want in zip(gradients(lambda x: train(x, dtype=jnp.float64, **options)[0]), gradients(normalised),
                             strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
