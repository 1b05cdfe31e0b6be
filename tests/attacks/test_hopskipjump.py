import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import HopSkipJump
from morel_jax.attacks.norms import norm as module
from tests.attacks.linear import Linear
from tests.small import mostly_slow

MODEL = Linear(classes=3, count=12)
KEYS = jax.random.split(jax.random.key(0), 12)


@functools.partial(jax.jit, static_argnums=0)
def run(logits_fn, attack, x, y, keys):
    return attack.run(logits_fn, keys, x, y)


def labels_alone(x):
    """The model's answer, without a gradient and without a margin."""
    return jax.nn.one_hot(jnp.argmax(MODEL.logits(x), -1), 3)


@functools.cache
def attacked(norm):
    """Without a radius, on labels alone."""
    return jax.device_get(run(labels_alone, HopSkipJump(None, 2000, norm), MODEL.x, MODEL.y, KEYS))


@pytest.mark.parametrize("norm", mostly_slow(["linf", "l2"], "linf"))
def test_reaches_the_boundary_of_a_linear_model_from_labels_alone(norm):
    state, distances = attacked(norm), MODEL.distances(norm)
    assert state.found.all()
    assert (np.argmax(MODEL.logits(state.x_adv), -1) != MODEL.y).all()
    np.testing.assert_allclose(module(norm).distance(state.x_adv, MODEL.x), state.best_distance, rtol=1e-5)
    assert (state.best_distance >= distances * (1 - 1e-4)).all()
    assert np.median(state.best_distance / distances) < 1.1
    assert 0 <= state.x_adv.min() <= state.x_adv.max() <= 1
    assert (state.steps == 2000).all()


def test_within_a_radius_it_ends_early():
    distances, free = MODEL.distances("linf"), attacked("linf").best_distance
    epsilon = float(np.median(free))
    state = jax.device_get(run(labels_alone, HopSkipJump(epsilon, 2000), MODEL.x, MODEL.y, KEYS))
    np.testing.assert_array_equal(state.found, free <= epsilon)
    assert not state.found[distances > epsilon].any()
    assert (np.abs(state.x_adv - MODEL.x) <= epsilon + 1e-6).all()
    assert (state.steps[state.found] < 2000).any()
    np.testing.assert_array_equal(state.x_adv[~state.found], MODEL.x[~state.found])


def test_an_example_does_not_depend_on_its_neighbours():
    whole, order = attacked("linf"), np.random.default_rng(0).permutation(12)
    shuffled = run(labels_alone, HopSkipJump(None, 2000), MODEL.x[order], MODEL.y[order], KEYS[order])
    np.testing.assert_array_equal(whole.x_adv[order], shuffled.x_adv)


def test_a_network_that_no_random_image_changes_is_left_after_a_hundred():
    state = run(lambda x: jnp.zeros((len(x), 3)).at[:, 0].set(1), HopSkipJump(0.1), MODEL.x, np.zeros(12, int), KEYS)
    assert not np.asarray(state.found).any()
    assert (np.asarray(state.steps) == 100).all()
    np.testing.assert_array_equal(state.x_adv, MODEL.x)


def test_random_pixels_are_not_the_only_start():
    """A network that goes by the mean: random pixels always have the middle one, large squares do not."""
    def logits_fn(x):
        bright = x.mean(axis=(1, 2, 3)) > 0.6
        return jnp.stack([~bright, bright], axis=-1).astype(jnp.float32)

    x, y = np.full((2, 32, 32, 1), 0.55, np.float32), np.zeros(2, int)
    state = jax.device_get(run(logits_fn, HopSkipJump(None, 100), x, y, KEYS[:2]))
    assert state.found.all()
    assert np.argmax(logits_fn(state.x_adv), -1).all()


def test_errors():
    for attack, text in ((HopSkipJump(0.1, norm="l1"), "norm must be one of linf, l2; got 'l1'"),
                         (HopSkipJump(0.1, 0), "num_queries must be at least 1; got 0"),
                         (HopSkipJump(0.1, initial_probes=0), "initial_probes must be at least 1; got 0")):
        with pytest.raises(ValueError, match=text):
            attack(MODEL.logits, KEYS, MODEL.x, MODEL.y)
