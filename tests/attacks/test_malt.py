import functools

import jax
import numpy as np
import pytest

from morel_jax.attacks import MALT
from tests.attacks.linear import Linear

# Its classes differ in the size of their gradients: the likeliest wrong one is often not the nearest.
MODEL = Linear(count=24)
MODEL.weights = (MODEL.weights - MODEL.weights.mean(0)) * np.array([0.2, 0.5, 1, 2, 4], np.float32)
MODEL.y = np.argmax(MODEL.logits(MODEL.x), -1).astype(np.int32)
EPSILON = float(np.median(MODEL.distances("linf")))
KEYS = jax.random.split(jax.random.key(0), 24)
LIKELIEST = np.argsort(-MODEL.logits(MODEL.x), axis=1)[:, 1:]


@jax.jit
def run(attack, x, y, keys):
    return attack.run(MODEL.logits, keys, x, y)


@functools.cache
def one_target():
    return jax.device_get(run(MALT(EPSILON, 40, num_targets=1), MODEL.x, MODEL.y, KEYS))


def nearest_classes(norm):
    """The wrong classes of each image by the known distance of their boundaries, int[n, classes - 1]."""
    logits, rows = MODEL.logits(MODEL.x), np.arange(len(MODEL.y))
    apart = MODEL.weights[:, MODEL.y].T[:, None] - MODEL.weights.T[None]
    size = np.abs(apart).sum(-1) if norm == "linf" else np.sqrt((apart**2).sum(-1))
    distances = np.where(np.arange(5) == MODEL.y[:, None], np.inf, (logits[rows, MODEL.y][:, None] - logits)
                         / np.maximum(size, 1e-12))
    return np.argsort(distances, axis=1)[:, :-1]


def test_targets_follow_the_distances_of_their_boundaries():
    nearest = nearest_classes("linf")
    assert (nearest[:, 0] != LIKELIEST[:, 0]).any()
    np.testing.assert_array_equal(one_target().order[:, 1:], nearest)


@pytest.mark.slow
def test_targets_in_l2_among_the_likeliest():
    state = run(MALT(1e-5, 1, num_candidates=2, norm="l2"), MODEL.x, MODEL.y, KEYS)
    expected = [[one for one in row if one in few] for row, few in
                zip(nearest_classes("l2"), LIKELIEST[:, :2], strict=True)]
    np.testing.assert_array_equal(state.order[:, 1:3], expected)
    assert (np.asarray(state.steps) == 2 + 2 * 2).all()


def test_one_target_breaks_what_a_linear_model_allows():
    state, distances = one_target(), MODEL.distances("linf")
    assert state.found[distances < 0.99 * EPSILON].all()
    assert not state.found[distances > 1.001 * EPSILON].any()
    np.testing.assert_array_equal(np.argmax(MODEL.logits(state.x_adv), -1) != MODEL.y, state.found)
    assert np.abs(state.x_adv - MODEL.x).max() <= EPSILON + 1e-6
    # Four candidates are scored; then there is one ascent.
    assert (state.steps[~state.found] == 4 + 41).all()


def test_an_example_does_not_depend_on_its_neighbours():
    whole, order = one_target(), np.random.default_rng(0).permutation(24)
    shuffled = run(MALT(EPSILON, 40, num_targets=1), MODEL.x[order], MODEL.y[order], KEYS[order])
    np.testing.assert_array_equal(whole.x_adv[order], shuffled.x_adv)
    np.testing.assert_array_equal(whole.steps[order], shuffled.steps)


def test_errors():
    with pytest.raises(ValueError, match="targeted DLR loss needs at least four classes"):
        jax.eval_shape(lambda x: MALT(0.1)(lambda x: MODEL.logits(x)[:, :3], KEYS, x, MODEL.y % 3), MODEL.x)
    with pytest.raises(ValueError, match="num_candidates must be at least 1; got 0"):
        MALT(0.1, num_candidates=0)(MODEL.logits, KEYS, MODEL.x, MODEL.y)
