import jax
import numpy as np
import pytest

from morel_jax.attacks.linf import NORMAL_START_SCALE, project, start_point


def test_project_by_hand():
    x = np.float32([0.5, 0.5, 0.05, 0.95])
    x_adv = np.float32([0.9, 0.45, -1.0, 2.0])
    np.testing.assert_allclose(project(x_adv, x, 0.1), [0.6, 0.45, 0.0, 1.0], rtol=1e-6)


def test_starts_are_in_ball_and_box():
    x = np.random.default_rng(0).random((64, 5, 5, 3), np.float32)
    for start in ("uniform", "normal", "clean"):
        point = np.asarray(start_point(start, jax.random.key(0), x, 0.05))
        assert np.abs(point - x).max() <= 0.05 + 1e-6
        assert point.min() >= 0
        assert point.max() <= 1


def test_uniform_start_fills_the_ball():
    noise = np.asarray(start_point("uniform", jax.random.key(0), np.full((200, 10), 0.5, np.float32), 0.1)) - 0.5
    assert abs(noise.mean()) < 0.005
    np.testing.assert_allclose(noise.std(), 0.1 / np.sqrt(3), rtol=0.05)


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
