import jax
import jax.numpy as jnp
import numpy as np

from morel_jax.models.activation import relu


def test_values_and_derivative():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])
    np.testing.assert_array_equal(relu(x), [0, 0, 0, np.float32(1e-30), 3])
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu))(x), [0, 0, 0, 1, 1])


def test_only_the_result_is_kept_for_the_derivative():
    _, pull_back = jax.vjp(relu, jnp.arange(-3.0, 4.0))
    kept = [np.asarray(leaf) for leaf in jax.tree.leaves(pull_back)]
    assert not any(np.issubdtype(leaf.dtype, np.floating) and (leaf < 0).any() for leaf in kept)


def test_second_derivatives():
    def loss(x):
        return jnp.sum(relu(x) ** 3)

    x = jnp.array([-1.0, 2.0])
    np.testing.assert_allclose(jax.hessian(loss)(x), np.diag([0.0, 12.0]))
    np.testing.assert_allclose(jax.jvp(jax.grad(loss), (x,), (jnp.ones(2),))[1], [0.0, 12.0])
