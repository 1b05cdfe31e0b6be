import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import gradients
from tests.attacks.linear import Linear
from tests.gradients.networks import images_and_labels, logits_fn
from tests.models import quick_jit

LINEAR = Linear(count=4)
OF_LABEL = LINEAR.weights[:, LINEAR.y].T.reshape(LINEAR.x.shape)


def cubes(x):
    """Two classes: the sum of a pixel's cubes, and 0."""
    score = jnp.sum(x**3, axis=(1, 2, 3))
    return jnp.stack([score, jnp.zeros_like(score)], axis=-1)


def test_of_a_linear_classifier_every_map_is_its_weights():
    x, y, logits = LINEAR.x, LINEAR.y, LINEAR.logits
    np.testing.assert_allclose(gradients.gradient_saliency(logits, x, y), np.abs(OF_LABEL), rtol=1e-6)
    np.testing.assert_allclose(gradients.gradient_times_input(logits, x, y), OF_LABEL * x, rtol=1e-6)
    smooth = gradients.smooth_grad(logits, jax.random.key(0), x, y, num_samples=3)
    np.testing.assert_allclose(smooth, OF_LABEL, rtol=1e-5)
    integrated = gradients.integrated_gradients(logits, x, y, baseline=0.25, num_steps=3)
    np.testing.assert_allclose(integrated, OF_LABEL * (x - 0.25), rtol=1e-5, atol=1e-6)


def test_integrated_gradients_of_cubes_by_hand():
    """Of x^3 the integral is x^3; of 3 t^2 the midpoint rule misses 1 / (4 m^2)."""
    x, y = images_and_labels(2, size=2)
    got = gradients.integrated_gradients(cubes, x, np.zeros_like(y), num_steps=10)
    np.testing.assert_allclose(got, x**3 * (1 - 1 / 400), rtol=1e-4)


def test_integrated_gradients_of_a_network_are_complete():
    function = logits_fn("convnet")
    x, y = images_and_labels()
    got = quick_jit(lambda x: gradients.integrated_gradients(function, x, y, num_steps=300))(x)
    rows = np.arange(len(y))
    expected = np.asarray(function(x) - function(np.zeros_like(x)))[rows, y]
    np.testing.assert_allclose(got.sum((1, 2, 3)), expected, atol=0.01 * np.abs(expected).max())


def test_smooth_grad_averages_over_the_noise():
    """Of x^3, the mean of 3 (x + noise)^2 is 3 (x^2 + noise_scale^2)."""
    x = np.full((1, 8, 8, 3), 0.5, np.float32)
    got = gradients.smooth_grad(cubes, jax.random.key(0), x, np.int32([0]), noise_scale=0.5, num_samples=200)
    np.testing.assert_allclose(got.mean(), 3 * (0.25 + 0.25), rtol=0.02)


def test_smooth_grad_of_an_example_does_not_depend_on_the_batch():
    x, y = images_and_labels(2, size=4)
    keys = jax.random.split(jax.random.key(1), 2)
    both = gradients.smooth_grad(cubes, keys, x, np.zeros_like(y), num_samples=4)
    one = gradients.smooth_grad(cubes, keys[1:], x[1:], np.zeros_like(y[1:]), num_samples=4)
    np.testing.assert_allclose(both[1:], one, rtol=1e-6)
    assert np.abs(both[0] - gradients.input_gradients(cubes, x, y, lambda z, y: z[:, 0])[0]).max() > 0.01
