import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import PMA, l2, linf
from tests.attacks.linear import Linear
from tests.small import mostly_slow

NORMS = {"linf": linf, "l2": l2}
# Its margin has one maximum in the ball.
MODEL = Linear(classes=2, count=24)
KEYS = jax.random.split(jax.random.key(0), 24)


@functools.partial(jax.jit, static_argnums=0)
def run(logits_fn, attack, x, y, keys):
    return attack.run(logits_fn, keys, x, y)


@functools.cache
def attacked(norm):
    epsilon = float(np.median(MODEL.distances(norm)))
    return epsilon, jax.device_get(run(MODEL.logits, PMA(epsilon, 40, norm=norm, num_restarts=2), MODEL.x, MODEL.y,
                                       KEYS))


@pytest.mark.parametrize("norm", mostly_slow(NORMS, "linf"))
def test_breaks_what_a_linear_model_allows_and_nothing_else(norm):
    distances, (epsilon, state) = MODEL.distances(norm), attacked(norm)
    assert state.found[distances < 0.99 * epsilon].all()
    assert not state.found[distances > 1.001 * epsilon].any()
    np.testing.assert_array_equal(np.argmax(MODEL.logits(state.x_adv), -1) != MODEL.y, state.found)
    assert (NORMS[norm].distance(state.point, MODEL.x) <= epsilon * (1 + 1e-5)).all()
    assert (state.steps[~state.found] == 2 * 41).all()
    assert (state.steps[state.found] < 41).all()


def test_ball_and_box_hold_at_the_edge_of_the_box():
    x = np.clip(MODEL.x * 3 - 1, 0, 1)
    state = jax.device_get(run(MODEL.logits, PMA(0.01, 40, num_restarts=2), x, np.argmax(MODEL.logits(x), -1), KEYS))
    assert np.abs(state.point - x).max() <= 0.01 + 1e-6
    assert 0 <= state.point.min() <= state.point.max() <= 1


def test_an_example_does_not_depend_on_its_neighbours():
    (epsilon, whole), order = attacked("linf"), np.random.default_rng(0).permutation(24)
    shuffled = run(MODEL.logits, PMA(epsilon, 40, num_restarts=2), MODEL.x[order], MODEL.y[order], KEYS[order])
    np.testing.assert_array_equal(whole.x_adv[order], shuffled.x_adv)
    np.testing.assert_array_equal(whole.steps[order], shuffled.steps)


def test_the_first_phase_climbs_one_term_alone_in_turn():
    """A brighter pixel lowers a third class, from which both the rival and the label gain, the label more."""
    def logits_fn(x):
        pixel = x[:, 0, 0, 0]
        return jnp.stack([3 + 0 * pixel, 2 + 0 * pixel, 1.5 - 10 * (pixel - 0.5)], axis=-1)

    x, y = np.full((1, 1, 1, 1), 0.5, np.float32), np.zeros(1, int)
    for exploring, restarts, last in ((1.0, 1, 0.52), (1.0, 2, 0.48), (0.0, 1, 0.48), (0.25, 1, 0.48)):
        state = run(logits_fn, PMA(0.02, 10, num_restarts=restarts, exploring=exploring), x, y, KEYS[:1])
        np.testing.assert_allclose(state.point, last, atol=1e-3)
        assert int(state.steps[0]) == restarts * 11


def test_errors():
    with pytest.raises(ValueError, match=r"exploring must be in \[0, 1\]; got 2"):
        PMA(0.1, exploring=2.0)(MODEL.logits, KEYS, MODEL.x, MODEL.y)
    with pytest.raises(ValueError, match=r"norm must be one of linf, l2; got 'l1'"):
        PMA(0.1, norm="l1")(MODEL.logits, KEYS, MODEL.x, MODEL.y)
