import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.models.folding import fold_batch_norm
from morel_jax.models.resnet import Bottleneck, ResNet
from tests.models import quick_jit


def network(name, **options):
    if name == "bottleneck":
        return ResNet(num_classes=3, block=Bottleneck, stage_sizes=(1, 1), widths=(4, 8), **options)
    if name.startswith("preact"):
        options |= dict(stage_sizes=(1, 1), widths=(4, 8))
    return models.create(name, 3, **options)


def variables_of(model, x):
    """Initial kernels, and BatchNorm with values that are not its initial ones."""
    variables = quick_jit(model.init)(jax.random.key(0), x)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda leaf: rng.uniform(0.5, 2.0, leaf.shape).astype(leaf.dtype), variables["batch_stats"])
    params = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else rng.normal(size=leaf.shape).astype(leaf.dtype),
                          variables["params"])
    return {"params": params, "batch_stats": stats}


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "convnet_small", "resnet8", "bottleneck", "wide_resnet10_1", "preact_resnet18_silu", "preact_resnet50"])
def test_logits_and_input_gradients_stay(name):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 8, 8, 3)))
        model = network(name, dtype=jnp.float64)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables_of(model, x))
        folded = fold_batch_norm(model, variables)
        assert len(jax.tree.leaves(folded)) < len(jax.tree.leaves(variables))

        @quick_jit
        def logits_and_gradient(variables):
            def sine(x):
                logits = model.apply(variables, x).logits
                return jnp.sum(jnp.sin(logits)), logits

            gradient, logits = jax.grad(sine, has_aux=True)(x)
            return logits, gradient

        (logits, gradient), (expected, expected_gradient) = map(logits_and_gradient, (folded, variables))
        np.testing.assert_allclose(logits, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-8, atol=1e-12)


def test_kernels_are_cast_once():
    model = network("resnet8", dtype="bfloat16")
    x = jnp.ones((1, 8, 8, 3))
    folded = fold_batch_norm(model, variables_of(model, x))
    kernels = [leaf for leaf in jax.tree.leaves(folded["params"]) if leaf.ndim == 4]
    assert kernels
    assert {leaf.dtype for leaf in kernels} == {jnp.dtype("bfloat16")}
    assert jax.eval_shape(model.apply, folded, x).logits.dtype == jnp.float32


def test_other_models_are_left_as_they_are():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(3)(x)

    variables = Own().init(jax.random.key(0), jnp.ones((1, 4)))
    assert fold_batch_norm(Own(), variables) == variables
