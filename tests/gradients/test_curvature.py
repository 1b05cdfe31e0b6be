import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from morel_jax import gradients
from tests.attacks.linear import Linear
from tests.gradients.networks import images_and_labels, logits_fn
from tests.models import quick_jit

MATRIX = np.float32([[4, 1, 0], [1, 3, -1], [0, -1, -2]])


def quadratic(params):
    v = jnp.concatenate([params["a"], params["b"]])
    return 0.5 * v @ MATRIX @ v + v.sum()


POINT = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}


def test_of_a_quadratic_by_hand():
    got = gradients.hessian_vector_product(quadratic, POINT, {"a": jnp.array([1.0, 0.0]), "b": jnp.array([2.0])})
    np.testing.assert_allclose(jnp.concatenate([got["a"], got["b"]]), MATRIX @ np.float32([1, 0, 2]), rtol=1e-6)
    values = np.linalg.eigvalsh(MATRIX)
    found = jax.jit(lambda point, key: gradients.hessian_eigenpairs(quadratic, point, key, count=3, num_steps=3))(
        POINT, jax.random.key(0))
    np.testing.assert_allclose(found.values, values[::-1], rtol=1e-5)
    found = jax.jit(lambda point, key: gradients.sharpness(quadratic, point, key, num_steps=60))(
        POINT, jax.random.key(0))
    np.testing.assert_allclose(found.values, values[-1:], rtol=1e-4)


def small_net():
    """A smooth network of two layers and its loss: few enough weights for the whole Hessian."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 3)), np.int32([0, 1, 2, 0, 1, 2])
    params = {"first": random.normal(size=(3, 4)), "second": random.normal(size=(4, 3))}

    def loss(params):
        logits = jnp.tanh(x @ params["first"]) @ params["second"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), y])

    return loss, jax.tree.map(jnp.asarray, params)


@pytest.mark.slow
def test_of_a_small_network_as_its_whole_hessian():
    with jax.enable_x64(True):
        loss, params = small_net()
        flat, unravel = ravel_pytree(params)
        hessian = jax.jit(jax.hessian(lambda flat: loss(unravel(flat))))(flat)
        vector = np.random.default_rng(1).normal(size=flat.shape)
        product = jax.jit(lambda v: gradients.hessian_vector_product(loss, params, v))(unravel(jnp.asarray(vector)))
        np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ vector, rtol=1e-10, atol=1e-12)
        values, vectors = np.linalg.eigh(hessian)
        for which, order in (("largest", np.arange(24)[::-1]), ("smallest", np.arange(24))):
            found = jax.jit(lambda key, which=which: gradients.hessian_eigenpairs(
                loss, params, key, count=2, num_steps=24, which=which))(jax.random.key(0))
            np.testing.assert_allclose(found.values, values[order[:2]], rtol=1e-8, atol=1e-10)
            first = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], found.vectors))[0]
            np.testing.assert_allclose(abs(first @ vectors[:, order[0]]), 1, rtol=1e-6)


def input_hessians(linear):
    """W (diag(p) - p p^T) W^T of each example: the cross-entropy's Hessian over linear logits."""
    p = np.asarray(jax.nn.softmax(linear.logits(linear.x)), np.float64)
    return [linear.weights @ (np.diag(row) - np.outer(row, row)) @ linear.weights.T for row in p]


def test_input_curvature_of_a_linear_classifier_by_hand():
    linear = Linear(classes=3, shape=(2, 2, 2), count=3)
    vector = np.random.default_rng(1).normal(size=linear.x.shape).astype(np.float32)
    got = jax.jit(lambda v: gradients.input_hessian_vector_product(linear.logits, linear.x, linear.y, v))(vector)
    hessians = input_hessians(linear)
    expected = [h @ v.ravel() for h, v in zip(hessians, vector, strict=True)]
    np.testing.assert_allclose(got.reshape(3, -1), expected, rtol=1e-3, atol=1e-5)

    find = jax.jit(lambda key: gradients.input_hessian_eigenpairs(
        linear.logits, key, linear.x, linear.y, count=3, num_steps=8))
    found = find(jax.random.key(0))
    expected = np.stack([np.linalg.eigvalsh(h)[::-1][:3] for h in hessians])
    # The third is 0: the Hessian's rank is one less than the number of classes.
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-5)
    assert found.vectors.shape == (3, 3, 2, 2, 2)


@pytest.mark.slow
def test_input_curvature_of_a_network_example_by_example():
    function = logits_fn("convnet")
    x, y = images_and_labels(2)
    keys = jax.random.split(jax.random.key(0), 2)

    def find(keys, x, y):
        return gradients.input_hessian_eigenpairs(function, keys, x, y, count=1, num_steps=3)

    both, one = quick_jit(lambda: (find(keys, x, y), find(keys[1:], x[1:], y[1:])))()
    np.testing.assert_allclose(both.values[1:], one.values, rtol=1e-3)
    # Convex in the logits, and the logits are linear near the image: no curvature is negative.
    assert np.all(both.values > 0)
    vector = both.vectors[:, 0]
    product = quick_jit(lambda v: gradients.input_hessian_vector_product(function, x, y, v))(vector)
    np.testing.assert_allclose(np.sum(product * np.asarray(vector), (1, 2, 3)), both.values[:, 0], rtol=1e-3)


def test_more_steps_than_dimensions():
    with pytest.raises(ValueError, match="the operator's dimension, 3; got count 1 and num_steps 20"):
        gradients.hessian_eigenpairs(quadratic, POINT, jax.random.key(0))
