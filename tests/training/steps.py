"""Steps of small configs on one batch of small images, compiled once for all tests of a process."""
import functools

import jax
import numpy as np

from morel_jax.optimizer import keeps_average, sgd
from morel_jax.training.members import shared_config
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch, Parts, train_step
from tests.small import images_and_labels, small_config

KEY = jax.random.key(7)
COUNT = 8


def still(method="morel_mart", **changes):
    """A config whose images are not augmented, so that tests of one method share its compiled step."""
    return small_config(method, data__crop_padding=0, data__flip=False, **changes)


@functools.cache
def _parts(shared, classes):
    return build_parts(shared, classes).on("cpu")


@functools.cache
def _states(model, embedding, average):
    """Initial states by seed, jitted once for all parts of which they are the same."""
    parts, hparams = Parts(model, embedding, None, sgd(still()), (), ()), build_hparams(still(), epoch=1)
    return functools.cache(jax.jit(lambda seed: create_state(parts, jax.random.key(seed), (8, 8, 1), hparams, average)))


def setup(config):
    """(parts, hparams, state, batch); configs that differ in traced numbers alone have one ``parts``."""
    images, labels = images_and_labels(COUNT, channels=1)
    parts = _parts(shared_config(config), 4)
    state = _states(parts.model, parts.embedding, keeps_average(config))(config.seed)
    batch = Batch(images, labels, np.arange(COUNT, dtype=np.int32))
    return parts, build_hparams(config, epoch=1), state, batch


def once(function, parts, **options):
    """The function compiled, and an error should it be traced again while JAX still has its program."""

    def traced(*arguments):
        assert program._cache_size() == 1, "traced a second time"  # The one being made.
        return function(*arguments, parts=parts)

    program = jax.jit(traced, **options)
    return program


@functools.cache
def compiled(parts):
    """``train_step`` of ``parts``, compiled once for all tests."""
    return once(train_step, parts)
