"""A step in less memory: its batch in equal parts (``config.accumulate``), residual blocks computed twice."""
import dataclasses
import functools
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from morel_jax.models import Outputs
from morel_jax.training.epoch import compiler_options
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch, train_step
from tests.small import images_and_labels, small_config

KEY = jax.random.key(7)
METHODS = ("standard", "pgd_at", "trades", "mart")


class Smooth(nn.Module):
    """A network without BatchNorm, in which examples do not meet."""
    num_classes: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        features = nn.tanh(nn.Dense(16)(images.reshape(len(images), -1)))
        return Outputs(features, nn.Dense(self.num_classes)(features))


@functools.cache
def setup(method, accumulate=1, model=None, count=8):
    """(step, state, hparams, batch), the step compiled once for all tests."""
    config = small_config(method, accumulate=accumulate, batch_size=count)
    parts = build_parts(config, 4)
    if model is not None:
        parts = dataclasses.replace(parts, model=model)
    images, labels = images_and_labels(count, channels=1)
    hparams = build_hparams(config, epoch=1)
    new = jax.jit(lambda key: create_state(parts, key, images.shape[1:], hparams, average=False))
    batch = Batch(images, labels, np.arange(count, dtype=np.int32))
    return jax.jit(partial(train_step, parts=parts)), new(jax.random.key(0)), hparams, batch


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_parts_give_the_whole_where_examples_do_not_meet(method):
    step, *arguments = setup(method, model=Smooth())
    whole = step(*arguments, KEY)
    step, *arguments = setup(method, 8, Smooth())
    chex.assert_trees_all_close(step(*arguments, KEY), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_means_of_the_parts(method):
    """Gradients, metrics and BatchNorm's statistics are the means of what each part alone gives; example i is of
    part i % accumulate."""
    step, state, hparams, batch = setup(method, accumulate=2)
    accumulated, metrics = step(state, hparams, batch, KEY)
    alone = setup(method)[0]
    halves = [alone(state, hparams, jax.tree.map(lambda a, i=i: a[i::2], batch), KEY) for i in range(2)]
    expected, expected_metrics = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    del metrics["gradient_norm"], expected_metrics["gradient_norm"]
    # The first step's SGD is linear in the gradient.
    chex.assert_trees_all_close((accumulated.params, accumulated.batch_stats, metrics),
                                (expected.params, expected.batch_stats, expected_metrics), rtol=1e-5, atol=1e-6)
    other = jax.tree.map(lambda a, b: (a + b) / 2, *(
        alone(state, hparams, jax.tree.map(lambda a, i=i: a[4 * i:4 * i + 4], batch), KEY)[0].params for i in range(2)))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(accumulated.params, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_parts_take_less_memory():
    def temporary(accumulate):
        step, *arguments = setup("standard", accumulate, count=64)
        return step.lower(*arguments, KEY).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4) < 0.5 * temporary(1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_parts_inside_shard_map(method):
    """As the members of a population are trained: everything varies from device to device."""
    step, *arguments = setup(method, accumulate=2)
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (*arguments, KEY))
    mesh = jax.make_mesh((1,), ("member",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])

    @partial(jax.shard_map, mesh=mesh, in_specs=P("member"), out_specs=P("member"))
    def members(*stacked):
        return jax.tree.map(lambda leaf: leaf[None], step(*jax.tree.map(lambda leaf: leaf[0], stacked)))

    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], jax.jit(members)(*stacked)), step(*arguments, KEY),
                                rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_step_with_blocks_computed_twice_is_the_same_in_less_memory():
    def compiled(remat):
        config = small_config("mart", model__name="resnet14", model__remat=remat, batch_size=32)
        parts = build_parts(config, 4)
        images, labels = images_and_labels(32, size=16)
        hparams = build_hparams(config, epoch=1)
        state = create_state(parts, jax.random.key(0), images.shape[1:], hparams, average=False)
        arguments = (state, hparams, Batch(images, labels, np.arange(32)), KEY)
        step = jax.jit(partial(train_step, parts=parts), compiler_options=compiler_options(parts, "cpu"))
        step = step.lower(*arguments).compile()
        return step(*arguments), step.memory_analysis().temp_size_in_bytes

    (plain, plain_bytes), (remat, remat_bytes) = compiled(False), compiled(True)
    chex.assert_trees_all_close(remat, plain, rtol=1e-3, atol=1e-4)
    assert remat_bytes < 0.6 * plain_bytes
