import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.test_util import check_grads

from morel_jax.models.linear import Linear, product
from morel_jax.targets.flops import count_flops

from .hlo import loop_body


def operands(inputs=7, features=3):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=(4, inputs)), jnp.float32),
            jnp.asarray(rng.normal(size=(inputs, features)), jnp.float32))


def test_affine_map():
    x, w = operands()
    b = jnp.arange(3.0)
    y = Linear(3).apply({"params": {"kernel": w, "bias": b}}, x)
    np.testing.assert_allclose(y, np.asarray(x) @ w + b, atol=1e-6)


def test_derivatives_are_those_of_a_matrix_product():
    x, w = operands()
    g = jnp.ones((4, 3)).at[1].set(2)
    dx, dw = jax.vjp(product, x, w)[1](g)
    np.testing.assert_allclose(dx, g @ w.T, atol=1e-6)
    np.testing.assert_allclose(dw, x.T @ g, atol=1e-6)
    check_grads(product, (x, w), order=2, modes=["fwd", "rev"], atol=1e-2, rtol=1e-2)


def test_a_single_input_and_kernels_of_a_population():
    x, w = operands(inputs=1)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(product(x, w)))(x), jnp.full((4, 1), jnp.sum(w)), atol=1e-6)
    x, w = operands()
    kernels = jnp.stack([w, 2 * w])
    gradients = jax.vmap(jax.grad(lambda x, w: jnp.sum(product(x, w))), (None, 0))(x, kernels)
    np.testing.assert_allclose(gradients, jnp.stack([jnp.ones((4, 3)) @ w.T, jnp.ones((4, 3)) @ (2 * w.T)]), atol=1e-5)


def test_no_product_with_a_tangent_that_is_not_there():
    x, w = operands()
    for argument in (0, 1):
        gradient = jax.grad(lambda x, w: jnp.sum(product(x, w) ** 2), argument)
        assert count_flops(gradient, x, w) == 2 * 2 * (4 * 7 * 3)  # Forwards, and one gradient.


def test_kernel_is_turned_round_outside_loops():
    x, w = operands(inputs=64, features=48)

    def steps(x, w):
        return lax.fori_loop(0, 5, lambda _, x: x - jax.grad(lambda x: jnp.sum(product(x, w) ** 2))(x), x)

    body = loop_body(jax.jit(steps).lower(x, w).compile())
    assert " dot(" in body
    assert not any(operation in body for operation in (" transpose(", " concatenate(", "rhs_contracting_dims={1}"))
