"""Networks whose BatchNorm depends on a preference."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.models.batch_norm import BatchNorm
from morel_jax.models.conditioned import fixed, is_conditioned
from morel_jax.models.folding import fold_batch_norm
from tests.models import quick_jit

IMAGES = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)


def sloped(model):
    """A conditioned network and variables whose slopes are not 0."""
    variables = quick_jit(model.init)(jax.random.key(0), IMAGES)
    leaves, structure = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, {**variables, "params": jax.tree.unflatten(structure, params)}


def test_scale_and_bias_by_hand():
    """At c the scale is 2 + (c - 0.5) 4 and the bias 1 - (c - 0.5) 2."""
    layer = BatchNorm(use_running_average=True, epsilon=0.0, condition=jnp.array([0.25, 1.0]))
    variables = {"params": {"scale": jnp.full(3, 2.0), "scale_slope": jnp.full(3, 4.0), "bias": jnp.ones(3),
                            "bias_slope": jnp.full(3, -2.0)},
                 "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}
    got = layer.apply(variables, jnp.ones((2, 5, 3)))
    np.testing.assert_allclose(got[:, 0, 0], [1.0 + 1.5, 4.0 + 0.0], rtol=1e-6)


def test_a_new_network_is_the_plain_one():
    """Slopes begin at 0: whatever the preference, outputs are those of the network without it."""
    plain = models.create("resnet8_half", 5)
    conditioned = models.create("resnet8_half", 5, batch_norm_condition=0.3)
    variables = quick_jit(conditioned.init)(jax.random.key(0), IMAGES)
    expected = quick_jit(plain.apply)(quick_jit(plain.init)(jax.random.key(0), IMAGES), IMAGES)
    np.testing.assert_allclose(quick_jit(conditioned.apply)(variables, IMAGES).logits, expected.logits, atol=1e-6)
    assert is_conditioned(conditioned)
    assert not is_conditioned(plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet_small", "resnet8_half", "wide_resnet10_1"])
def test_at_one_preference_it_is_a_plain_network(name):
    model, variables = sloped(models.create(name, 5, batch_norm_condition=0.5))
    each = jnp.array([0.1, 0.9, 0.9, 0.4])
    together = quick_jit(model.clone(batch_norm_condition=each).apply)(variables, IMAGES).logits
    for row, preference in enumerate(each):
        plain, its_variables = fixed(model, variables, float(preference))
        alone = quick_jit(plain.apply)(its_variables, IMAGES[row:row + 1]).logits
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-3, atol=1e-5)
        folded = quick_jit(plain.apply)(fold_batch_norm(plain, its_variables), IMAGES[row:row + 1]).logits
        np.testing.assert_allclose(folded, alone, rtol=1e-3, atol=1e-4)
    assert np.abs(together[1] - quick_jit(model.apply)(variables, IMAGES).logits[1]).max() > 1e-3


@pytest.mark.slow
def test_with_remat():
    model, variables = sloped(models.create("resnet8_half", 5, batch_norm_condition=0.5))
    each = jnp.array([0.1, 0.9, 0.9, 0.4])

    def gradient(remat):
        network = model.clone(batch_norm_condition=each, remat=remat)
        return quick_jit(jax.grad(lambda params: network.apply({**variables, "params": params}, IMAGES, train=True,
                                                               mutable=["batch_stats"])[0].logits.sum()))(
                                                                   variables["params"])

    for own, other in zip(*map(jax.tree.leaves, (gradient(False), gradient(True))), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-4 * np.abs(own).max())
