import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from morel_jax.models import strided

from . import quick_jit
from .hlo import loop_body

CASES = [  # size, kernel, strides, padding, channels in
    ((28, 28), (4, 4), (2, 2), ((1, 1), (1, 1)), 1),
    ((14, 14), (4, 4), (2, 2), ((1, 1), (1, 1)), 16),
    ((7, 9), (2, 3), (2, 3), ((0, 0), (1, 0)), 3),  # Whole blocks side by side; a row and a column that none reaches.
    ((9, 8), (4, 2), (2, 1), ((0, 2), (2, 1)), 5),
    ((5, 5), (4, 4), (2, 2), ((1, 0), (0, 1)), 20),
]


@pytest.mark.parametrize(("size", "kernel", "strides", "padding", "c_in"), CASES)
def test_value_and_input_gradient_are_those_of_a_convolution(size, kernel, strides, padding, c_in):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, c_in)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, c_in, 6)), jnp.float32)
    y, vjp = jax.vjp(lambda x: lax.conv_general_dilated(x, w, strides, padding,
                                                        dimension_numbers=("NHWC", "HWIO", "NHWC")), x)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)

    @quick_jit
    def ours(x, w, g):
        return (strided.forward(x, w, strides, padding, None),
                strided.input_gradient(g, w, strides, padding, None, size))

    for got, want in zip(ours(x, w, g), (y, *vjp(g)), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_kernels_are_cut_outside_loops():
    w = jnp.ones((4, 4, 8, 6))

    def steps(x, w):
        def step(_, x):
            y = strided.forward(x, w, (2, 2), ((1, 1), (1, 1)), None)
            return strided.input_gradient(y, w, (2, 2), ((1, 1), (1, 1)), None, (8, 8))
        return lax.fori_loop(0, 5, step, x)

    body = loop_body(jax.jit(steps).lower(jnp.ones((2, 8, 8, 8)), w).compile())
    assert body.count(" dot(") == 2
    assert "concatenate(" not in body


def test_where_it_suits():
    assert strided.suits((4, 4), (2, 2))
    assert strided.suits((2, 3), (1, 3))
    assert not strided.suits((3, 3), (2, 2))
    assert not strided.suits((1, 1), (2, 2))
    assert not strided.suits((4, 4), (1, 1))
