from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.models.convolution import conv
from morel_jax.targets.flops import count_flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_matrix_products():
    assert count_flops(lambda a, b: a @ b, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    scores = partial(jnp.einsum, "ihd,jhd->hij")
    assert count_flops(scores, shape(3, 2, 4), shape(5, 2, 4)) == 2 * 2 * 3 * 5 * 4
    assert count_flops(lambda a: jnp.tanh(a).sum(), shape(3, 5)) == 0


def test_a_convolution_and_its_gradients():
    images, kernel = shape(2, 9, 9, 3), shape(3, 3, 3, 5)
    once = 2 * (2 * 5 * 5 * 5) * (3 * 3 * 3)

    def value(x, w):
        return conv(x, w, (2, 2), ((1, 1), (1, 1))).sum()

    assert count_flops(value, images, kernel) == once
    # A sum's gradient does not need its value: what is left is one product each.
    assert count_flops(jax.value_and_grad(value, argnums=(0, 1)), images, kernel) == 3 * once
    alone = jax.vmap(jax.grad(lambda w, x: value(x[None], w)), (None, 0))
    np.testing.assert_allclose(count_flops(alone, kernel, images), 2 * once, atol=once)


def test_a_convolution_of_jax_itself():
    images, kernel = shape(2, 9, 9, 6), shape(3, 3, 3, 10)
    grouped = partial(jax.lax.conv_general_dilated, window_strides=(2, 2), padding=((1, 1), (1, 1)),
                      dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)
    assert count_flops(grouped, images, kernel) == 2 * (2 * 5 * 5 * 10) * (3 * 3 * 3)


def test_loops_and_branches():
    a = shape(4, 4)
    once = 2 * 4**3
    assert count_flops(lambda a: jax.lax.fori_loop(0, 7, lambda i, x: x @ a, a), a) == 7 * once
    assert count_flops(lambda a, n: jax.lax.fori_loop(0, n, lambda i, x: x @ a, a), a, np.int32(3)) == once
    assert count_flops(lambda a, p: jax.lax.cond(p, lambda x: x @ x @ x, lambda x: x @ x, a), a, True) == 2 * once
    assert count_flops(jax.jit(lambda a: jax.checkpoint(lambda x: x @ x)(a)), a) == once


@pytest.mark.parametrize(("name", "multiply_adds"), [
    # 32x32x3, 10 classes, as counted for the PyTorch models: 0.56 and 5.2 billion.
    ("resnet18", 0.56e9),
    ("wide_resnet28_10", 5.2e9),
])
def test_networks_in_use(name, multiply_adds):
    model = models.create(name, 10)
    images = shape(1, 32, 32, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    np.testing.assert_allclose(count_flops(model.apply, variables, images) / 2, multiply_adds, rtol=0.02)


def test_the_small_network_by_hand():
    model = models.create("convnet_small", 10)
    images = shape(3, 28, 28, 1)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    by_hand = 14 * 14 * 16 * 16 + 7 * 7 * 32 * 16 * 16 + 7 * 7 * 32 * 128 + 128 * 10
    assert count_flops(model.apply, variables, images) == 2 * 3 * by_hand
