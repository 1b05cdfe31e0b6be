import jax
import numpy as np
import pytest

from morel_jax.attacks.norms import NORMS
from morel_jax.attacks.starts import NORMAL_START_SCALE, STARTS, start_point


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.7)])
def test_starts_are_in_ball_and_box(norm, epsilon):
    x = np.random.default_rng(0).random((64, 5, 5, 3), np.float32)
    for start in STARTS:
        point = np.asarray(start_point(start, jax.random.key(0), x, epsilon, norm))
        assert NORMS[norm].distance(point, x).max() <= epsilon + 1e-6
        assert point.min() >= 0
        assert point.max() <= 1


def test_uniform_start_fills_the_ball():
    noise = np.asarray(start_point("uniform", jax.random.key(0), np.full((200, 10), 0.5, np.float32), 0.1)) - 0.5
    assert abs(noise.mean()) < 0.005
    np.testing.assert_allclose(noise.std(), 0.1 / np.sqrt(3), rtol=0.05)


def test_uniform_start_fills_the_ball_in_l2():
    """Of d numbers a share r**d lies within r of the centre, and no direction is preferred."""
    x = np.full((4000, 1, 3, 1), 0.5, np.float32)
    noise = np.asarray(start_point("uniform", jax.random.key(0), x, 0.1, "l2") - x).reshape(-1, 3)
    radii = np.linalg.norm(noise, axis=1) / 0.1
    for share in (0.1, 0.5, 0.9):
        assert abs(np.mean(radii < share ** (1 / 3)) - share) < 0.025
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.003)
    np.testing.assert_allclose(np.cov(noise.T), 0.1**2 / 5 * np.eye(3), atol=2e-4)


def test_normal_start_has_the_published_width():
    noise = np.asarray(start_point("normal", jax.random.key(0), np.full((200, 10), 0.5, np.float32), 0.1)) - 0.5
    assert NORMAL_START_SCALE == 0.001
    np.testing.assert_allclose(noise.std(), 0.001, rtol=0.05)


def test_clean_start_is_the_image():
    x = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)
    np.testing.assert_array_equal(start_point("clean", jax.random.key(0), x, 0.1), x)


def test_unknown_start():
    with pytest.raises(ValueError, match=r"start must be one of .*; got 'corner'"):
        start_point("corner", jax.random.key(0), np.zeros((1, 2)), 0.1)
