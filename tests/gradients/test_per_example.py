import functools

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import gradients, losses
from tests.attacks.linear import Linear
from tests.gradients.networks import cross_entropies, images_and_labels, logits_fn
from tests.models import quick_jit

X = np.float32([[1, 2], [0, -3], [4, 0]])
Y = np.float32([1, 0, 2])


def squared(params, x, y):
    return (x @ params["w"] + params["b"] - y) ** 2


PARAMS = {"w": jnp.array([0.5, -1.0]), "b": jnp.array(1.0)}


def test_parameter_gradients_of_a_linear_regression_by_hand():
    residual = X @ np.float32([0.5, -1.0]) + 1 - Y
    got = jax.jit(lambda p: gradients.parameter_gradients(squared, p, X, Y))(PARAMS)
    np.testing.assert_allclose(got["w"], 2 * residual[:, None] * X, rtol=1e-6)
    np.testing.assert_allclose(got["b"], 2 * residual, rtol=1e-6)
    expected = 2 * np.abs(residual) * np.sqrt((X**2).sum(1) + 1)
    for batch_size in (1, 2, 8):
        norms = jax.jit(functools.partial(gradients.parameter_gradient_norms, squared, batch_size=batch_size))
        np.testing.assert_allclose(norms(PARAMS, X, Y), expected, rtol=1e-6)


def test_a_loss_of_more_than_images_and_labels():
    def loss(params, x, x_adv, y):
        return losses.trades(x @ params, x_adv @ params, y)

    params, y = jnp.eye(2), np.int32([0, 1, 1])
    got, whole = jax.jit(lambda p: (gradients.parameter_gradients(loss, p, X, X + 0.1, y),
                                    jax.jacrev(lambda p: loss(p, X, X + 0.1, y))(p)))(params)
    np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_network_are_those_of_a_loop_over_examples():
    loss_fn, params = cross_entropies("convnet")
    x, y = images_and_labels(2)

    def all_ways(params):
        loop = [jax.grad(lambda p, i=i: loss_fn(p, x[i:i + 1], y[i:i + 1])[0])(params) for i in range(len(x))]
        return (gradients.parameter_gradients(loss_fn, params, x, y),
                gradients.parameter_gradient_norms(loss_fn, params, x, y, batch_size=1), loop)

    got, norms, loop = quick_jit(all_ways)(params)
    for i, one in enumerate(loop):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6), got, one)
        total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(one)))
        np.testing.assert_allclose(norms[i], total, rtol=1e-4)
        assert norms[i] > 0.1


def test_input_gradients_of_a_linear_classifier_by_hand():
    linear = Linear(count=4)
    p = jax.nn.softmax(linear.logits(linear.x))
    expected = (p - np.eye(5)[linear.y]) @ linear.weights.T
    got = gradients.input_gradients(linear.logits, linear.x, linear.y)
    np.testing.assert_allclose(got.reshape(4, -1), expected, rtol=1e-4, atol=1e-6)
    for norm, order in (("l1", 1), ("l2", 2), ("linf", np.inf)):
        norms = gradients.input_gradient_norms(linear.logits, linear.x, linear.y, norm=norm)
        np.testing.assert_allclose(norms, np.linalg.norm(expected, order, axis=1), rtol=1e-4)


def test_another_loss():
    linear = Linear(classes=2, count=3)
    got = gradients.input_gradients(linear.logits, linear.x, linear.y, losses.margin)
    expected = [linear.weights[:, 1 - y] - linear.weights[:, y] for y in linear.y]
    np.testing.assert_allclose(got.reshape(3, -1), expected, rtol=1e-5, atol=1e-6)


def test_a_penalty_on_input_gradients_can_be_descended():
    """As in double backpropagation: the norm's gradient in the weights, at a weight where the norm is zero too."""
    x, y = np.float32([[0.2, 0.4]]), np.int32([0])

    @jax.jit
    def penalty(w):
        return gradients.input_gradient_norms(lambda x: x @ w, x, y, norm="l2").sum()

    w = jnp.array([[1.0, -0.5], [0.3, 0.8]])
    numeric = [(penalty(w.at[i].add(1e-2)) - penalty(w.at[i].add(-1e-2))) / 2e-2 for i in np.ndindex(2, 2)]
    np.testing.assert_allclose(jax.grad(penalty)(w).ravel(), numeric, rtol=1e-2, atol=1e-4)
    np.testing.assert_array_equal(jax.grad(penalty)(jnp.zeros((2, 2))), np.zeros((2, 2)))


def test_input_gradients_do_not_depend_on_the_batch():
    function = logits_fn("convnet")
    x, y = images_and_labels()
    gradient = quick_jit(lambda x, y: gradients.input_gradients(function, x, y))
    of_all = gradient(x, y)
    np.testing.assert_allclose(of_all[1:2], gradient(x[1:2], y[1:2]), rtol=1e-4, atol=1e-6)
    assert np.abs(of_all).max() > 0.01
