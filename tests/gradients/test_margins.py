import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import gradients
from tests.attacks.linear import Linear
from tests.gradients.networks import images_and_labels, logits_fn
from tests.models import quick_jit

LINEAR = Linear(count=6)
COEFFICIENTS = np.random.default_rng(0).uniform(0.5, 2, (4, 4, 2)).astype(np.float32)


def slopes(norm):
    """float[n, classes], the dual norms of the leads' gradients."""
    apart = LINEAR.weights[:, LINEAR.y].T[:, None, :] - LINEAR.weights.T[None]
    return np.abs(apart).sum(-1) if norm == "linf" else np.sqrt((apart**2).sum(-1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_a_linear_classifier_margins_are_distances(norm):
    distances = LINEAR.distances(norm)
    found = gradients.linearised_margins(LINEAR.logits, LINEAR.x, LINEAR.y, norm)
    np.testing.assert_allclose(found.margin, distances, rtol=1e-4)
    bounds = gradients.lipschitz_bounds(LINEAR.logits, jax.random.key(0), LINEAR.x, LINEAR.y, 0.1, 0.05, 2, norm)
    np.testing.assert_allclose(bounds, slopes(norm), rtol=1e-4, atol=1e-5)
    epsilon = np.median(distances)
    found = gradients.lipschitz_margins(LINEAR.logits, jax.random.key(0), LINEAR.x, LINEAR.y, epsilon, 0.05, 2, norm)
    np.testing.assert_allclose(found.margin, np.minimum(distances, epsilon), rtol=1e-4)


def test_nearest_is_the_class_on_the_other_side():
    found = gradients.linearised_margins(LINEAR.logits, LINEAR.x, LINEAR.y, "l2")
    slope = (LINEAR.weights[:, LINEAR.y] - LINEAR.weights[:, found.nearest]).T
    unit = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    beyond = LINEAR.x - np.reshape(1.01 * found.margin[:, None] * unit, LINEAR.x.shape)
    np.testing.assert_array_equal(np.argmax(LINEAR.logits(beyond), -1), found.nearest)


def test_misclassified_images_have_negative_margins():
    wrong = (LINEAR.y + 1) % 5
    found = gradients.linearised_margins(LINEAR.logits, LINEAR.x, wrong)
    assert np.all(found.margin < 0)
    clipped = gradients.lipschitz_margins(LINEAR.logits, jax.random.key(0), LINEAR.x, wrong, 1e-4, 1e-5, 1)
    np.testing.assert_allclose(clipped.margin, np.full(6, -1e-4), rtol=1e-5)


def test_logits_that_are_nan_have_no_margin():
    broken = np.ones((6, 1), np.float32)
    broken[2] = np.nan
    margin = gradients.linearised_margins(lambda x: broken * LINEAR.logits(x), LINEAR.x, LINEAR.y).margin
    np.testing.assert_array_equal(np.isnan(margin), np.isnan(broken[:, 0]))


def test_networks_without_slope():
    x, y = np.full((2, 2, 2, 1), 0.5, np.float32), np.int32([0, 1])

    def constant(x):
        return jnp.tile(jnp.array([2.0, 1.0]), (x.shape[0], 1))

    found = gradients.linearised_margins(constant, x, y)
    np.testing.assert_array_equal(found.margin, [np.inf, -np.inf])
    np.testing.assert_array_equal(found.nearest, [1, 0])
    level = gradients.linearised_margins(lambda x: jnp.zeros((2, 2)), x, y, "l2")
    np.testing.assert_array_equal(level.margin, [0, 0])


@pytest.mark.parametrize("label", [0, 1])
def test_of_a_parabola_the_steepest_point_is_a_corner(label):
    """The slope a x of 0.5 sum a x^2 is largest at the ball's upper corner, up or down the lead by the label."""
    def logits(x):
        score = 0.5 * jnp.sum(COEFFICIENTS * x**2, axis=(1, 2, 3))
        return jnp.stack([score, jnp.zeros_like(score)], axis=-1)

    x = np.float32(LINEAR.x)
    y = np.full(len(x), label, np.int32)
    bounds = jax.jit(lambda x: gradients.lipschitz_bounds(logits, jax.random.key(0), x, y, 0.1, 0.05, 5))(x)
    np.testing.assert_allclose(bounds[:, 1 - label], np.sum(COEFFICIENTS * (x + 0.1), (1, 2, 3)), rtol=1e-4)
    np.testing.assert_array_equal(bounds[:, label], np.zeros(len(x)))
    # The box ends the ball.
    bounds = gradients.lipschitz_bounds(logits, jax.random.key(0), np.ones_like(x), y, 0.1, 0.05, 5)
    np.testing.assert_allclose(bounds[:, 1 - label], np.full(len(x), COEFFICIENTS.sum()), rtol=1e-4)


@pytest.mark.slow
def test_of_a_network_bounds_grow_with_the_search_and_margins_shrink():
    function = logits_fn("convnet")
    x, _ = images_and_labels()
    y = np.argmax(quick_jit(function)(x), -1).astype(np.int32)

    def bounds(num_steps):
        return gradients.lipschitz_bounds(function, jax.random.key(0), x, y, 0.2, 0.05, num_steps)

    few, many, margins = quick_jit(lambda: (
        bounds(0), bounds(4), gradients.lipschitz_margins(function, jax.random.key(0), x, y, 0.2, 0.05, 4)))()
    linear = quick_jit(lambda: gradients.linearised_margins(function, x, y))()
    assert np.all(many >= few * 0.9999)
    assert np.any(many > few * 1.01)
    # The image's own slope is among those that the search has seen.
    assert np.all(margins.margin <= np.minimum(linear.margin, 0.2) * 1.0001)


def test_errors():
    with pytest.raises(ValueError, match="norm must be one of linf, l2; got 'l1'"):
        gradients.linearised_margins(LINEAR.logits, LINEAR.x, LINEAR.y, "l1")
    with pytest.raises(ValueError, match="logits_fn must give at least two classes; got 1"):
        gradients.linearised_margins(lambda x: LINEAR.logits(x)[:, :1], LINEAR.x, np.zeros(6, np.int32))


def test_nan_logits_have_no_margin():
    """Their gradient is zero, and no boundary is then infinitely far: that would look robust."""
    margins = gradients.linearised_margins(lambda x: LINEAR.logits(x) * 0 + jnp.nan, LINEAR.x, LINEAR.y).margin
    assert np.all(np.isnan(margins))
