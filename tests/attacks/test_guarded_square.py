import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import GuardedSquare, Square
from tests.attacks.linear import Linear

MODEL = Linear(count=12)
KEYS = jax.random.split(jax.random.key(0), 12)
EPSILON = 0.5 * float(MODEL.distances("linf").min())


@jax.jit
def run(attack, masked, x, y, keys):
    def logits_fn(x):
        logits = MODEL.logits(x)
        return jnp.where(masked, jax.lax.stop_gradient(logits), logits)
    return attack.run(logits_fn, keys, x, y)


@pytest.mark.parametrize("masked", [False, True])
def test_runs_to_its_end_only_where_gradients_fall_behind(masked):
    """On a linear model the gradient steps reach the optimum, and Square cannot get ahead of it."""
    state = jax.device_get(run(GuardedSquare(EPSILON, 400, fewest_queries=100), masked, MODEL.x, MODEL.y, KEYS))
    assert not state.found.any()
    queries = np.asarray(state.queries)
    assert (queries == 401).all() if masked else (queries < 110).all()


def test_until_then_it_is_square_itself():
    attack = GuardedSquare(4 * EPSILON, 400, fewest_queries=100)
    guarded = jax.device_get(run(attack, True, MODEL.x, MODEL.y, KEYS))
    plain = jax.device_get(run(Square(4 * EPSILON, 400), True, MODEL.x, MODEL.y, KEYS))
    np.testing.assert_array_equal(guarded.found, plain.found)
    np.testing.assert_array_equal(guarded.x_adv, plain.x_adv)
    assert plain.found.any()
    order = np.random.default_rng(0).permutation(12)
    shuffled = run(attack, True, MODEL.x[order], MODEL.y[order], KEYS[order])
    np.testing.assert_array_equal(guarded.queries[order], shuffled.queries)
    np.testing.assert_array_equal(guarded.x_adv[order], shuffled.x_adv)
