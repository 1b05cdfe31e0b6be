import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.models.fusion import fusion_barrier

from .hlo import computations


def test_values_and_derivatives_are_those_of_the_argument():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(fusion_barrier(x), x)
    np.testing.assert_array_equal(jax.jit(fusion_barrier)(x), x)
    np.testing.assert_array_equal(jax.vmap(fusion_barrier)(x), x)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(fusion_barrier(x) ** 2))(x), 2 * x)
    np.testing.assert_array_equal(jax.hessian(lambda x: jnp.sum(fusion_barrier(x) ** 3))(x[1]), np.diag(6 * x[1]))
    primal, tangent = jax.jvp(lambda x: 3 * fusion_barrier(x), (x,), (x + 1,))
    np.testing.assert_array_equal(primal, 3 * x)
    np.testing.assert_array_equal(tangent, 3 * (x + 1))


@pytest.mark.parametrize(("barrier", "shape"), [(fusion_barrier, "4,7,7,8"), (lambda x: x, "4,392")])
def test_loop_runs_over_its_own_shape(barrier, shape):
    def flattened(x):
        sums = x[:, :7, :7] + x[:, 1:, 1:]
        return barrier(sums).reshape(4, -1)

    compiled = jax.jit(flattened).lower(jnp.ones((4, 8, 8, 8))).compile()
    fused = [text for text in computations(compiled).values() if " slice(" in text and "ENTRY" not in text]
    shapes = {re.search(r"ROOT \S+ = f32\[([\d,]+)\]", text).group(1) for text in fused}
    assert shapes == {shape}


def test_other_platforms_see_nothing_of_it():
    text = jax.jit(fusion_barrier).trace(jnp.ones(3)).lower(lowering_platforms=("cuda",)).as_text()
    assert "inlineable" not in text
    assert "inlineable" in jax.jit(fusion_barrier).trace(jnp.ones(3)).lower(lowering_platforms=("cpu",)).as_text()
