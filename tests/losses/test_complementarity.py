import itertools

import jax
import numpy as np
import pytest

from morel_jax.losses.complementarity import solve_nonnegative

solve = jax.jit(solve_nonnegative)


def by_enumeration(matrix, vector):
    """Of all sets of free variables, the one that keeps every condition."""
    size = len(vector)
    for chosen in itertools.product((False, True), repeat=size):
        free = np.array(chosen)
        z = np.zeros(size)
        z[free] = np.linalg.solve(matrix[np.ix_(free, free)], -vector[free])
        if (z >= 0).all() and (matrix @ z + vector >= -1e-12).all():
            return z
    raise AssertionError("no set of free variables keeps the conditions")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_against_enumeration(size):
    random = np.random.default_rng(size)
    with jax.enable_x64(True):
        for _ in range(20):
            rows = random.normal(size=(size, size + 2))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            vector = random.normal(size=size)
            expected = by_enumeration(rows @ rows.T, vector)
            np.testing.assert_allclose(solve(rows @ rows.T, vector), expected, rtol=1e-8, atol=1e-10)


def test_by_hand():
    identity = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(solve(identity, np.float32([1, -0.5])), [0, 0.5], rtol=1e-4)
    half = np.float32([[1, 0.5], [0.5, 1]])
    np.testing.assert_allclose(solve(half, np.float32([-0.75, -0.75])), [0.5, 0.5], rtol=1e-4)
    np.testing.assert_array_equal(solve(half, np.float32([1, 0])), [0, 0])


def test_of_several_solutions_the_symmetric_one_and_all_finite():
    ones = np.ones((3, 3), np.float32)
    np.testing.assert_allclose(solve(ones, -np.ones(3, np.float32)), np.full(3, 1 / 3), rtol=2e-2)
    opposed = np.float32([[1, -1], [-1, 1]])  # No minimum.
    assert np.isfinite(solve(opposed, -np.ones(2, np.float32))).all()


def test_many_at_once():
    random = np.random.default_rng(0)
    rows = random.normal(size=(6, 3, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    matrices, vectors = rows @ rows.transpose(0, 2, 1), random.normal(size=(6, 3)).astype(np.float32)
    together = jax.vmap(solve)(matrices, vectors)
    alone = np.stack([solve(matrix, vector) for matrix, vector in zip(matrices, vectors, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
