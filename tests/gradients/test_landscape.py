import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import gradients, losses
from tests.attacks.linear import Linear
from tests.gradients.networks import cross_entropies, images_and_labels, network
from tests.models import quick_jit

ORIGIN = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
FIRST = {"a": jnp.array([1.0, 0.0]), "b": jnp.array(0.0)}
SECOND = {"a": jnp.array([0.0, 1.0]), "b": jnp.array(-1.0)}


def quadratic(point):
    return jnp.sum(point["a"] ** 2) + point["b"]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_plane_and_a_line_by_hand(batch_size):
    s, t = np.float32([-1, 0, 2]), np.float32([0, 1])
    got = gradients.surface(quadratic, ORIGIN, [FIRST, SECOND], [s, t], batch_size)
    expected = (1 + s[:, None]) ** 2 + (2 + t) ** 2 + 0.5 - t
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    line = gradients.surface(quadratic, ORIGIN, [SECOND], [t], batch_size)
    np.testing.assert_allclose(line, expected[1], rtol=1e-6)


def test_losses_of_images_keep_their_axis():
    linear = Linear(count=3)
    directions = gradients.input_directions(linear.logits, jax.random.key(0), linear.x, linear.y)
    s, t = np.float32([0, 0.1]), np.float32([-0.1, 0, 0.1])
    loss = jax.jit(lambda x: losses.cross_entropy(linear.logits(x), linear.y))
    got = gradients.surface(lambda x: {"loss": loss(x)}, linear.x, directions, [s, t])["loss"]
    assert got.shape == (2, 3, 3)
    moved = linear.x + s[1] * directions[0] + t[2] * directions[1]
    np.testing.assert_allclose(got[1, 2], loss(moved), rtol=1e-5)
    np.testing.assert_allclose(got[0, 1], loss(linear.x), rtol=1e-5)


def test_filters_of_a_direction_are_as_long_as_the_weights():
    _, params = network("convnet")
    make = jax.jit(gradients.filter_normalised_direction, static_argnames="ignore")
    direction = make(jax.random.key(0), params)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), direction, params)
    kernel, weights = direction["conv2"]["kernel"], params["conv2"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(kernel.reshape(-1, 8), axis=0),
                               np.linalg.norm(weights.reshape(-1, 8), axis=0), rtol=1e-5)
    head, weights = direction["linear"]["kernel"], params["linear"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(head, axis=0), np.linalg.norm(weights, axis=0), rtol=1e-5)
    assert np.abs(np.corrcoef(np.ravel(kernel), np.ravel(params["conv2"]["kernel"]))[0, 1]) < 0.5
    for layer, name in (("bn1", "scale"), ("bn1", "bias"), ("linear", "bias")):
        np.testing.assert_array_equal(direction[layer][name], np.zeros_like(params[layer][name]))
    with_biases = make(jax.random.key(0), params, ignore=None)
    np.testing.assert_array_equal(with_biases["linear"]["bias"], params["linear"]["bias"])
    np.testing.assert_array_equal(with_biases["conv2"]["kernel"], kernel)


def test_a_filter_of_zeros_stays_zero():
    got = gradients.filter_normalised_direction(jax.random.key(0), {"kernel": jnp.zeros((3, 2)).at[:, 0].set(1)})
    np.testing.assert_array_equal(got["kernel"][:, 1], np.zeros(3))
    np.testing.assert_allclose(np.linalg.norm(got["kernel"][:, 0]), 3**0.5, rtol=1e-5)


def test_of_a_network_every_point_is_the_loss_there():
    loss_fn, params = cross_entropies("convnet")
    x, y = images_and_labels()

    def loss(params):
        return jnp.mean(loss_fn(params, x, y))

    first, second = (gradients.filter_normalised_direction(jax.random.key(i), params) for i in (0, 1))
    s, t = np.float32([-0.5, 0]), np.float32([0, 1])
    got, corner, centre = quick_jit(lambda p: (
        gradients.surface(loss, p, [first, second], [s, t]),
        loss(jax.tree.map(lambda p, a, b: p - 0.5 * a + b, p, first, second)), loss(p)))(params)
    np.testing.assert_allclose([got[0, 1], got[1, 0]], [corner, centre], rtol=1e-4)
    assert abs(corner - centre) > 1e-3


def test_input_directions():
    linear = Linear(shape=(8, 8, 3), count=3)
    signs, across = gradients.input_directions(linear.logits, jax.random.key(0), linear.x, linear.y)
    slope = gradients.input_gradients(linear.logits, linear.x, linear.y)
    np.testing.assert_array_equal(signs, np.sign(slope))
    np.testing.assert_allclose(np.sum(signs * across, (1, 2, 3)), np.zeros(3), atol=1e-3)
    np.testing.assert_allclose(np.abs(across), np.ones_like(across), atol=0.3)
    # Where the gradient is zero nothing is taken from the random signs.
    signs, across = gradients.input_directions(lambda x: 0 * linear.logits(x), jax.random.key(0), linear.x, linear.y)
    assert not np.any(signs)
    np.testing.assert_array_equal(np.abs(across), np.ones_like(across))


def test_errors():
    with pytest.raises(ValueError, match=r"directions and coordinates must have .* at least 1; got 1 and 2"):
        gradients.surface(quadratic, ORIGIN, [FIRST], [np.zeros(2), np.zeros(2)])
    with pytest.raises(ValueError, match="ignore must be 'biasbn' or None; got 'bias'"):
        gradients.filter_normalised_direction(jax.random.key(0), ORIGIN, ignore="bias")
