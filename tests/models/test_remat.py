import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from tests.models import quick_jit
from tests.small import mostly_slow

NETWORKS = [
    dict(name="resnet8", widths=(4, 8), stage_sizes=(1, 1)),
    dict(name="resnet50", widths=(4, 4, 8), stage_sizes=(2, 1, 1)),
    dict(name="wide_resnet10_1"),
    dict(name="preact_resnet18_silu", widths=(4, 4, 8), stage_sizes=(2, 1, 1)),
]
each_network = pytest.mark.parametrize("options", mostly_slow(NETWORKS, NETWORKS[0]),
                                       ids=lambda options: options["name"])
IMAGES = np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype(np.float32)
LABEL = 1


def pair(options):
    return [models.create(num_classes=3, remat=remat, **options) for remat in (False, True)]


def loss(model, variables, params, images=IMAGES, train=True):
    outputs, moved = model.apply(variables | {"params": params}, images, train=train, mutable=["batch_stats"])
    return -jax.nn.log_softmax(outputs.logits)[:, LABEL].mean(), moved


def residual_bytes(model, variables, train):
    """Of what the forward pass of 64 images keeps for the gradient."""
    images = jnp.zeros((64, 8, 8, 3))
    kept = jax.eval_shape(lambda params: jax.vjp(lambda p: loss(model, variables, p, images, train), params)[1],
                          variables["params"])
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.slow
@each_network
def test_parameters_losses_and_gradients_stay(options):
    plain, remat = pair(options)
    variables, again = (quick_jit(model.init)(jax.random.key(0), IMAGES) for model in (plain, remat))
    chex.assert_trees_all_equal(again, variables)
    results = [quick_jit(jax.value_and_grad(lambda p, model=model: loss(model, variables, p), has_aux=True))(
        variables["params"]) for model in (plain, remat)]
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


@each_network
def test_less_is_kept_in_training_only(options):
    plain, remat = pair(options)
    variables = jax.eval_shape(plain.init, jax.random.key(0), IMAGES)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    assert residual_bytes(remat, variables, True) < 0.5 * residual_bytes(plain, variables, True)
    assert residual_bytes(remat, variables, False) == residual_bytes(plain, variables, False)
