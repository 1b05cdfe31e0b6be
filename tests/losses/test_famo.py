import chex
import jax
import numpy as np
import pytest

from morel_jax.losses import famo_start, famo_update, famo_weights

weights, update = jax.jit(famo_weights), jax.jit(famo_update)


def test_weights_by_hand():
    """At first log L_1 and log L_2 weigh the same, so each loss has the inverse of its size."""
    state = famo_start(2)
    np.testing.assert_allclose(weights(state, np.float32([1, 3])), [0.75, 0.25], rtol=1e-6)
    state = state._replace(logits=np.log(np.float32([3, 1])))
    np.testing.assert_allclose(weights(state, np.float32([1, 3])), [0.9, 0.1], rtol=1e-6)


def test_weights_do_not_depend_on_the_unit_of_all_losses():
    state, losses = famo_start(3), np.float32([0.5, 2, 7])
    np.testing.assert_allclose(weights(state, losses), weights(state, 1e3 * losses), rtol=1e-5)


def test_first_update_by_hand():
    """Adam's first step is the rate towards the sign of the slope; the loss that fell less gains weight."""
    state = update(famo_start(2), np.float32([1, 1]), np.float32([0.5, 1]))
    np.testing.assert_allclose(state.logits, [-0.025, 0.025], rtol=1e-4)
    assert int(state.adam.count) == 1
    np.testing.assert_allclose(state.adam.mu, 0.1 * np.log(2) * np.float32([0.25, -0.25]), rtol=1e-5)


def test_losses_that_fall_at_one_rate_keep_their_weights():
    state = update(famo_start(2), np.float32([1, 10]), np.float32([0.5, 5]))
    np.testing.assert_allclose(state.logits, [0, 0], atol=0.025 * 0.1)


def test_weight_decay_draws_logits_to_zero():
    state = famo_start(2)._replace(logits=np.float32([2, -2]))
    same = np.float32([1, 1])
    np.testing.assert_allclose(update(state, same, same, 0.1, 0.5).logits, [1.9, -1.9], rtol=1e-5)
    np.testing.assert_array_equal(update(state, same, same, 0.1, 0.0).logits, [2, -2])


@pytest.mark.parametrize("losses", [[0, 1], [-1, 1], [0, 0], [1e-30, 1e30]])
def test_losses_of_zero_or_less_leave_all_finite(losses):
    losses = np.float32(losses)
    found = weights(famo_start(2), losses)
    assert float(found.sum()) == pytest.approx(1)
    chex.assert_tree_all_finite(update(famo_start(2), losses, losses[::-1].copy()))


def test_it_balances_the_rates_of_two_losses_whose_sizes_differ_by_a_thousand():
    """exp(-x) and 1e3 exp(-3 y): alone the second would fall three times as fast."""
    point, state, rate = np.zeros(2, np.float32), famo_start(2), np.float32(0.02)

    def losses_of(point):
        return np.float32([1, 1e3]) * jax.numpy.exp(-np.float32([1, 3]) * point)

    @jax.jit
    def step(point, state):
        before, pull = jax.vjp(losses_of, point)
        point = point - rate / before.min() * pull(famo_weights(state, before))[0]
        return point, famo_update(state, before, losses_of(point), 0.025, 0.0)

    for _ in range(300):
        last, (point, state) = point, step(point, state)
    falls = np.float32([1, 3]) * (point - last)
    assert falls[0] / falls[1] == pytest.approx(1, rel=0.2)
