import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from morel_jax.models import winograd

from . import quick_jit

SAME = ((1, 1), (1, 1))
CASES = [((8, 8), SAME), ((7, 5), SAME), ((6, 7), ((0, 0), (2, 1))), ((3, 3), ((0, 0), (0, 0))), ((1, 2), SAME)]


def reference(x, w, padding):
    return lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(size):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=(2, *size, 16)), jnp.float32),
            jnp.asarray(rng.normal(size=(3, 3, 16, 20)), jnp.float32), rng)


@pytest.mark.parametrize(("size", "padding"), CASES)
def test_value_and_both_gradients_are_those_of_a_convolution(size, padding):
    x, w, rng = operands(size)
    y, vjp = jax.vjp(lambda x, w: reference(x, w, padding), x, w)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)

    @quick_jit
    def ours(x, w, g):
        return (winograd.forward(x, w, padding), winograd.input_gradient(g, w, padding, size),
                winograd.kernel_gradient(x, g, padding))

    for got, want in zip(ours(x, w, g), (y, *vjp(g)), strict=True):
        np.testing.assert_allclose(got, want, atol=5e-5)


def test_rounding_is_a_small_multiple_of_a_convolutions():
    x, w, _ = operands((16, 16))
    with jax.enable_x64(True):
        exact = np.asarray(reference(jnp.asarray(x, jnp.float64), jnp.asarray(w, jnp.float64), SAME))
    error = np.abs(winograd.forward(x, w, SAME) - exact).max()
    usual = np.abs(reference(x, w, SAME) - exact).max()
    assert error < 10 * usual


def test_where_it_suits():
    assert winograd.suits((3, 3), (1, 1), 64, 64)
    for kernel_size, strides, c_in, c_out in (((1, 1), (1, 1), 64, 64), ((3, 3), (2, 2), 64, 64),
                                              ((3, 3), (1, 1), 3, 64), ((3, 3), (1, 1), 64, 16),
                                              ((4, 4), (1, 1), 64, 64)):
        assert not winograd.suits(kernel_size, strides, c_in, c_out)
