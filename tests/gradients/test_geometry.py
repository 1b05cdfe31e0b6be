import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from morel_jax.gradients.geometry import cosines, norms, unit

ROWS = np.float32([[[3, 0], [0, -4]], [[0, 0], [0, 0]], [[-1, 1], [1, -1]]])


@pytest.mark.parametrize(("norm", "expected"), [("l1", [7, 0, 4]), ("l2", [5, 0, 2]), ("linf", [4, 0, 1])])
def test_norms_by_hand(norm, expected):
    np.testing.assert_allclose(norms(ROWS, norm), expected, rtol=1e-6)


def test_cosines_by_hand():
    np.testing.assert_allclose(cosines(ROWS, ROWS), [1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(cosines(ROWS[:1], ROWS[2:]), [(-3 + 4) / 5 / 2], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_neither_size_of_the_rows_nor_their_squares_matter(scale):
    rows = ROWS * np.float32(scale)
    np.testing.assert_allclose(norms(rows), np.float32([5, 0, 2]) * np.float32(scale), rtol=1e-6)
    np.testing.assert_allclose(cosines(rows, ROWS), [1, 0, 1], rtol=1e-6)


def test_nan_stays_nan():
    rows = np.float32([[np.nan, 1], [1, 0]])
    np.testing.assert_array_equal(np.isnan(norms(rows)), [True, False])
    np.testing.assert_array_equal(np.isnan(cosines(rows, np.ones_like(rows))), [True, False])


def test_a_zero_row_has_finite_gradients():
    zero = jnp.zeros((1, 3))
    np.testing.assert_array_equal(jax.grad(lambda a: norms(a).sum())(zero), zero)
    gradient = jax.grad(lambda a: cosines(a, jnp.ones((1, 3))).sum())(zero)
    assert np.all(np.isfinite(gradient))


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        # The first row has a largest entry that is the only one, where a maximum in the formula would halve a gradient.
        a = jnp.array([[2.0, 0.0, 0.0], [0.3, -0.2, 0.1]])
        b = jnp.array([[1.0, 2.0, -1.0], [0.5, 0.5, 0.2]])
        check_grads(jax.jit(norms), (a,), order=2)
        check_grads(jax.jit(unit), (a,), order=2)
        check_grads(jax.jit(cosines), (a, b), order=2)


def test_an_unknown_norm():
    with pytest.raises(ValueError, match="norm must be one of l1, l2, linf; got 'l3'"):
        norms(ROWS, "l3")
