import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from morel_jax.losses import check_conic, conic, smooth_tchebycheff, weighted_sum

LOSSES = jnp.array([2.0, 5.0])
K = jnp.array([0.25, 0.75])
A = jnp.array([1.0, 2.0])


def test_weighted_sum_by_hand():
    assert weighted_sum(LOSSES, K) == 0.25 * 2 + 0.75 * 5


def test_conic_by_hand():
    np.testing.assert_allclose(conic(LOSSES, K, A, 0.125), 0.25 * 1 + 0.75 * 3 + 0.125 * (1 + 3), rtol=1e-7)
    three = conic(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3), 0.5)
    np.testing.assert_allclose(three, 1 + 4 + 9 + 3, rtol=1e-7)


def test_conic_with_reference_point_zero_is_a_weighted_sum_with_k_plus_gamma():
    got, gradient = jax.value_and_grad(conic)(LOSSES, K, jnp.zeros(2), 0.1)
    expected, expected_gradient = jax.value_and_grad(weighted_sum)(LOSSES, K + 0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)


def test_conic_differs_from_that_weighted_sum_by_a_constant():
    for losses in (LOSSES, 7 * LOSSES):
        difference = conic(losses, K, A, 0.1) - weighted_sum(losses, K + 0.1)
        np.testing.assert_allclose(difference, -(0.35 * 1 + 0.85 * 2), rtol=1e-5)


def test_augmentation_is_as_printed_which_under_the_conditions_is_with_absolute_values():
    def with_absolute_values(losses):
        return jnp.sum(K * (losses - A)) + 0.1 * jnp.sum(jnp.abs(losses - A))

    np.testing.assert_allclose(conic(LOSSES, K, A, 0.1), with_absolute_values(LOSSES), rtol=1e-6)
    beyond = jnp.array([0.5, 5.0])  # Breaks a_1 < L_1.
    expected = with_absolute_values(beyond) - 2 * 0.1 * 0.5
    np.testing.assert_allclose(conic(beyond, K, A, 0.1), expected, rtol=1e-6)


def test_plain_numbers_are_accepted():
    np.testing.assert_array_equal(conic(LOSSES, (0.25, 0.75), [1.0, 2.0], 0.1), conic(LOSSES, K, A, 0.1))
    np.testing.assert_array_equal(weighted_sum(LOSSES, (0.25, 0.75)), weighted_sum(LOSSES, K))


def test_everything_may_be_swept_in_one_program():
    preferences = jnp.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]])
    references = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    augmentations = jnp.array([0.0, 2e-5, 0.05])
    swept = jax.jit(jax.vmap(lambda *a: conic(LOSSES, *a)))(preferences, references, augmentations)
    one_by_one = [conic(LOSSES, *a) for a in zip(preferences, references, augmentations, strict=True)]
    np.testing.assert_allclose(swept, jnp.stack(one_by_one), rtol=1e-6)
    swept = jax.jit(jax.vmap(lambda k: weighted_sum(LOSSES, k)))(preferences)
    np.testing.assert_allclose(swept, preferences @ LOSSES, rtol=1e-6)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        args = (jnp.array([2.0, 5.0]), jnp.array([0.2, 0.8]), jnp.array([1.0, 2.0]), 0.1)
        check_grads(jax.jit(conic), args, order=2, modes=("rev",))
        check_grads(jax.jit(conic), args, order=1, modes=("fwd",))
        check_grads(jax.jit(weighted_sum), args[:2], order=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_result_is_a_scalar_in_the_losses_dtype(dtype):
    with jax.enable_x64(True):
        losses = jnp.array([2.0, 5.0], dtype)
        for other in (np.float32, np.float64):
            k, a = np.array([0.2, 0.8], other), np.array([1.0, 2.0], other)
            for value in (conic(losses, k, a, other(0.1)), weighted_sum(losses, k)):
                assert value.dtype == dtype
                assert value.shape == ()


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"losses and preference must .* got \(2,\) and \(3,\)"):
        jax.eval_shape(weighted_sum, LOSSES, jnp.ones(3))
    with pytest.raises(ValueError, match=r"losses and preference must .* got \(2,\) and \(\)"):
        jax.eval_shape(conic, LOSSES, 0.5, A, 0.1)
    with pytest.raises(ValueError, match=r"losses and reference_point must .* got \(2,\) and \(1,\)"):
        jax.eval_shape(conic, LOSSES, K, jnp.ones(1), 0.1)
    with pytest.raises(ValueError, match=r"augmentation must be a scalar; got shape \(2,\)"):
        jax.eval_shape(conic, LOSSES, K, A, K)
    with pytest.raises(ValueError, match=r"losses must have shape \[num_objectives\]; got \(2, 2\)"):
        jax.eval_shape(weighted_sum, jnp.ones((2, 2)), jnp.ones((2, 2)))


@pytest.mark.parametrize("args", [
    ((0.1, 0.9), (0, 0), 2e-5), ([0.5], [0.0], 0), ((1, 2, 3), (0.0, 4.0, 0.0), 0.5),
])
def test_check_conic_accepts(args):
    assert check_conic(*args) is None


@pytest.mark.parametrize(("args", "message"), [
    (((0.1, 0.9), (0.0,), 0.0),
     "preference and reference_point must have the same length, at least 1; got 2 and 1"),
    (((), (), 0.0), "preference and reference_point .* at least 1; got 0 and 0"),
    (((0.1, math.nan), (0.0, 0.0), 0.0), r"preference\[1\] must be a finite number; got nan"),
    (((0.1, 0.9), (math.inf, 0.0), 0.0), r"reference_point\[0\] must be a finite number; got inf"),
    (((0.1, 0.9), (0.0, 0.0), -math.inf), "augmentation must be a finite number; got -inf"),
    (((0.1, "0.9"), (0.0, 0.0), 0.0), r"preference\[1\] must be a finite number; got '0.9'"),
    (((0.1, 0.9), (0.0, 0.0), -0.01), r"augmentation must be at least 0 \(0 <= gamma < k_i\); got -0.01"),
    (((0.1, 0.9), (0.0, 0.0), 0.2),
     r"preference\[0\] must be greater than augmentation \(0 <= gamma < k_i\); got 0.1 with augmentation 0.2"),
    (((0.9, 0.1), (0.0, 0.0), 0.1), r"preference\[1\] must be greater than augmentation .* got 0.1 with"),
    (((0.0, 1.0), (0.0, 0.0), 0.0), r"preference\[0\] must be greater than augmentation .* got 0.0 with"),
    (((0.1, 0.9), (0.0, -1.0), 0.0), r"reference_point\[1\] must be at least 0 \(a_i >= 0\); got -1.0"),
])
def test_check_conic_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        check_conic(*args)


def test_smooth_tchebycheff_by_hand():
    """k (L - a) is 0.25 and 2.25."""
    got, gradient = jax.value_and_grad(smooth_tchebycheff)(LOSSES, K, A, 0.5)
    np.testing.assert_allclose(got, 0.5 * np.log(np.exp(0.25 / 0.5) + np.exp(2.25 / 0.5)), rtol=1e-6)
    shares = np.exp([0.5, 4.5]) / np.exp([0.5, 4.5]).sum()
    np.testing.assert_allclose(gradient, shares * np.array([0.25, 0.75]), rtol=1e-5)


def test_smooth_tchebycheff_is_near_the_largest_for_a_small_mu_and_the_mean_for_a_large_one():
    for mu in (1e-30, 1e-3, 0.1):
        got, gradient = jax.value_and_grad(smooth_tchebycheff)(1e3 * LOSSES, K, 1e3 * A, mu)
        assert 2250 <= got <= 2250 * (1 + 1e-6) + mu * np.log(2)
        np.testing.assert_allclose(gradient, [0, 0.75], atol=1e-6)
    np.testing.assert_allclose(jax.grad(smooth_tchebycheff)(LOSSES, K, A, 1e6), K / 2, rtol=1e-4)
    three = smooth_tchebycheff(jnp.ones(3), jnp.ones(3), jnp.zeros(3), 0.5)
    np.testing.assert_allclose(three, 1 + 0.5 * np.log(3), rtol=1e-6)


def test_smooth_tchebycheff_names_the_shapes():
    with pytest.raises(ValueError, match=r"losses and preference must .* got \(2,\) and \(3,\)"):
        jax.eval_shape(smooth_tchebycheff, LOSSES, jnp.ones(3), A, 0.1)
    with pytest.raises(ValueError, match=r"losses and reference_point must .* got \(2,\) and \(3,\)"):
        jax.eval_shape(smooth_tchebycheff, LOSSES, K, jnp.ones(3), 0.1)
    with pytest.raises(ValueError, match=r"smoothing must be a scalar; got shape \(2,\)"):
        jax.eval_shape(smooth_tchebycheff, LOSSES, K, A, K)
    with pytest.raises(ValueError, match=r"losses must have shape \[num_objectives\]; got \(1, 2\)"):
        jax.eval_shape(smooth_tchebycheff, LOSSES[None], K, A, 0.1)
