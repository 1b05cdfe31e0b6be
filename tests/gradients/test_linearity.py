import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import gradients
from tests.attacks.linear import Linear
from tests.gradients.networks import images_and_labels, logits_fn
from tests.models import quick_jit

LINEAR = Linear(count=4)
COEFFICIENTS = np.random.default_rng(0).uniform(0.5, 2, (4, 4, 2)).astype(np.float32)


def first_logit(logits, y):
    return logits[:, 0]


def parabola(x):
    """0.5 sum a x^2, whose tangent it leaves by 0.5 sum a delta^2."""
    return 0.5 * jnp.sum(COEFFICIENTS * x**2, axis=(1, 2, 3))[:, None]


def test_a_linear_loss_is_linear():
    x, y, key = LINEAR.x, LINEAR.y, jax.random.key(0)
    found = gradients.linearity_error(LINEAR.logits, key, x, y, 0.1, 0.02, loss=first_logit)
    assert np.all(found.error < 1e-5)
    alignment = gradients.gradient_alignment(LINEAR.logits, key, x, y, 0.1, loss=first_logit)
    np.testing.assert_allclose(alignment, np.ones(4), rtol=1e-5)


def test_of_a_parabola_the_worst_is_a_corner_of_the_ball():
    epsilon, x, y = 0.5, LINEAR.x, LINEAR.y

    def find(epsilon):
        return gradients.linearity_error(parabola, jax.random.key(0), x, y, epsilon, epsilon / 4, loss=first_logit)

    found = jax.jit(find)(epsilon)
    np.testing.assert_allclose(found.error, np.full(4, 0.5 * COEFFICIENTS.sum() * epsilon**2), rtol=1e-3)
    np.testing.assert_allclose(np.abs(found.delta), np.full(x.shape, epsilon), rtol=1e-4)
    swept = jax.jit(jax.vmap(find))(np.float32([0.1, 0.5]))
    np.testing.assert_allclose(swept.error[1], found.error, rtol=1e-4)
    np.testing.assert_allclose(swept.error[0], found.error / 25, rtol=1e-2)


def test_the_error_is_that_of_delta_and_steps_find_more():
    function = logits_fn("convnet")
    x, y = images_and_labels()
    epsilon = 0.3

    def find(num_steps):
        return gradients.linearity_error(function, jax.random.key(0), x, y, epsilon, 0.1, num_steps)

    start, found = quick_jit(lambda: (find(0), find(5)))()
    assert np.all(np.abs(found.delta) <= epsilon * 1.0001)
    assert np.all(found.error > 1.5 * start.error)

    def loss(x):
        logits = function(x)
        return -jax.nn.log_softmax(logits)[np.arange(3), y]

    there, here, slope = quick_jit(lambda delta: (
        loss(x + delta), loss(x), gradients.input_gradients(function, x, y)))(found.delta)
    expected = np.abs(there - here - np.sum(found.delta * slope, (1, 2, 3)))
    np.testing.assert_allclose(found.error, expected, rtol=1e-3, atol=1e-6)


def test_a_loss_that_is_nan_is_not_called_linear():
    found = gradients.linearity_error(lambda x: LINEAR.logits(x) * np.float32([[1], [1], [1], [np.nan]]),
                                      jax.random.key(0), LINEAR.x, LINEAR.y, 0.1, 0.05, 2)
    np.testing.assert_array_equal(np.isnan(found.error), [False, False, False, True])


def test_alignment_of_a_parabola_by_hand():
    """Gradients a x and a (x + eta): at x = 0 nothing to align; far away the noise does not matter."""
    y = np.int32([0, 0])
    x = np.stack([np.zeros((4, 4, 2)), np.full((4, 4, 2), 100.0)]).astype(np.float32)
    got = jax.jit(lambda x: gradients.gradient_alignment(parabola, jax.random.key(0), x, y, 0.1, loss=first_logit))(x)
    np.testing.assert_allclose(got, [0, 1], atol=1e-5)
    # Noise as large as the image, E<x, x + eta> / (|x| |x + eta|) = 1 / sqrt(1 + 1/3) for a = 1 and many pixels.
    many = np.ones((1, 64, 64, 4), np.float32)
    got = jax.jit(lambda many: gradients.gradient_alignment(
        lambda x: 0.5 * jnp.sum(x**2, (1, 2, 3))[:, None], jax.random.key(0), many, y[:1], 1.0, loss=first_logit))(many)
    np.testing.assert_allclose(got, [0.75**0.5], rtol=0.01)


def test_alignment_can_be_descended_and_is_finite_where_gradients_vanish():
    x, y = images_and_labels(2, size=2)

    @jax.jit
    def penalty(w):
        def network(x):
            return jnp.tanh(x.reshape(2, -1) @ w)
        return 1 - jnp.mean(gradients.gradient_alignment(network, jax.random.key(0), x, y, 0.5))

    w = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
    gradient = jax.grad(penalty)(w)
    assert penalty(w - 0.1 * gradient) < penalty(w)
    assert np.all(np.isfinite(jax.grad(penalty)(jnp.zeros((12, 3)))))
