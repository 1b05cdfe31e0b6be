import jax
import numpy as np

from morel_jax.attacks import l2


def test_distance_and_direction_by_hand():
    x = np.zeros((2, 1, 2, 1), np.float32)
    x_adv = np.float32([3, 4, 0, 0]).reshape(2, 1, 2, 1)
    np.testing.assert_allclose(l2.distance(x_adv, x), [5, 0])
    np.testing.assert_allclose(l2.direction(x_adv).ravel(), [0.6, 0.8, 0, 0], rtol=1e-6)


def test_project_by_hand():
    x = np.full((3, 1, 2, 1), 0.5, np.float32)
    x_adv = x + np.float32([0.3, 0.4, 0.03, 0.04, 6.0, 8.0]).reshape(x.shape)
    np.testing.assert_allclose(l2.project(x_adv, x, 0.25).reshape(3, 2), [[0.65, 0.7], [0.53, 0.54], [0.65, 0.7]],
                               rtol=1e-6)
    np.testing.assert_allclose(l2.project(x_adv, x, 5.0)[2].ravel(), [1, 1])


def test_random_boundary_has_the_radius_where_the_box_allows_it():
    x = np.full((8, 6, 6, 3), 0.5, np.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    point = l2.random_boundary(keys, x, 0.4)
    np.testing.assert_allclose(l2.distance(point, x), 0.4, rtol=1e-5)
    clipped = np.asarray(l2.random_boundary(keys, x, 50.0))
    assert clipped.min() >= 0
    assert clipped.max() <= 1


def test_project_from_the_box_by_hand():
    """What the box takes away leaves room: (0.5, 0.5) + (6, 0.4) -> (1, 0.9), whose distance 0.64 is scaled to 0.5."""
    x = np.full((2, 1, 2, 1), 0.5, np.float32)
    x_adv = x + np.float32([6.0, 0.4, 0.03, 0.04]).reshape(x.shape)
    got = np.asarray(l2.project_from_box(x_adv, x, 0.5)).reshape(2, 2)
    far = np.hypot(0.5, 0.4)
    np.testing.assert_allclose(got, [[0.5 + 0.5 * 0.5 / far, 0.5 + 0.4 * 0.5 / far], [0.53, 0.54]], rtol=1e-6)
    assert np.all(l2.distance(got.reshape(x.shape), x) >= l2.distance(l2.project(x_adv, x, 0.5), x))
