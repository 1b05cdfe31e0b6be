import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import gradients

LIKE = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}


def symmetric(values, seed=0):
    """A matrix of these eigenvalues, and its product with pytrees like LIKE."""
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(len(values),) * 2))
    matrix = jnp.asarray(rotation @ np.diag(values) @ rotation.T, jnp.float32)

    def product(vector):
        flat = matrix @ jnp.concatenate([vector["a"].ravel(), vector["b"]])
        return {"a": flat[:6].reshape(2, 3), "b": flat[6:]}

    return matrix, product


def flat(vectors):
    return np.concatenate([np.reshape(vectors["a"], (-1, 6)), vectors["b"]], axis=1)


VALUES = np.float32([-7, -3, -1, 0, 0.5, 1, 2, 3, 5, 6])


@pytest.mark.parametrize(("which", "expected"), [
    ("largest", [6, 5, 3]), ("smallest", [-7, -3, -1]), ("magnitude", [-7, 6, 5])])
def test_known_eigenvalues(which, expected):
    matrix, product = symmetric(VALUES)
    found = jax.jit(lambda key: gradients.lanczos(product, key, LIKE, 10, 3, which))(jax.random.key(0))
    np.testing.assert_allclose(found.values, expected, rtol=1e-4)
    vectors = flat(found.vectors)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(vectors @ matrix, found.values[:, None] * vectors, atol=1e-4)
    assert np.all(found.residuals < 1e-3)


def test_residuals_are_the_errors_of_few_steps():
    matrix, product = symmetric(VALUES)
    found = jax.jit(lambda key: gradients.lanczos(product, key, LIKE, 4, 2))(jax.random.key(0))
    vectors = flat(found.vectors)
    errors = np.linalg.norm(vectors @ matrix - found.values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residuals, errors, rtol=1e-3)
    assert errors.max() > 0.1
    for value, error in zip(found.values, errors, strict=True):
        assert np.abs(VALUES - value).min() <= error


@pytest.mark.parametrize("values", [
    np.float32([0, 0, 0, 0, 0, 0, 0, 0, 4, 4]),
    np.float32([-2] * 10),
    np.float32([-3, -3, -3, -3, -3, -2, -2, -2, -1, -1]),
])
def test_repeated_eigenvalues_come_as_often_as_they_occur(values):
    """A single Krylov space has each once: the rest are found from new starts."""
    _, product = symmetric(values)
    found = jax.jit(lambda key: gradients.lanczos(product, key, LIKE, 10, 10))(jax.random.key(0))
    np.testing.assert_allclose(found.values, np.sort(values)[::-1], atol=1e-4)
    vectors = flat(found.vectors)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(10), atol=1e-4)


def test_the_zero_operator():
    def zero(v):
        return jax.tree.map(jnp.zeros_like, v)

    found, one = jax.jit(lambda key: (gradients.lanczos(zero, key, LIKE, 5, 5),
                                      gradients.power_iteration(zero, key, LIKE, 5)))(jax.random.key(0))
    np.testing.assert_array_equal(found.values, np.zeros(5))
    assert one.values[0] == one.residuals[0] == 0
    np.testing.assert_allclose(np.linalg.norm(flat(one.vectors)), 1, rtol=1e-5)


def test_power_iteration_finds_the_value_of_largest_size():
    matrix, product = symmetric(VALUES)
    found = gradients.power_iteration(product, jax.random.key(0), LIKE, 80)
    np.testing.assert_allclose(found.values, [-7], rtol=1e-4)
    vectors = flat(found.vectors)
    np.testing.assert_allclose(vectors @ matrix, -7 * vectors, atol=1e-2)
    few = gradients.power_iteration(product, jax.random.key(0), LIKE, 3)
    vectors = flat(few.vectors)
    error = np.linalg.norm(vectors @ matrix - few.values[:, None] * vectors)
    np.testing.assert_allclose(few.residuals, error, rtol=1e-3)


@pytest.mark.parametrize(("options", "message"), [
    (dict(num_steps=11), "the operator's dimension, 10; got count 1 and num_steps 11"),
    (dict(num_steps=2, count=3), "got count 3 and num_steps 2"),
    (dict(num_steps=2, which="outer"), "which must be one of largest, smallest, magnitude; got 'outer'"),
])
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        gradients.lanczos(symmetric(VALUES)[1], jax.random.key(0), LIKE, **options)
