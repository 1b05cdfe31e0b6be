import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import gradients, losses

G = np.float32([[3, 0, 0], [-1, 2, 0]])
PARAMS = jnp.array([0.5, -0.5, 1.0])
PREFERENCES = np.float32([[1, 0.1], [0.1, 1], [0.5, 0.5]])
A, GAMMA = jnp.array([0.2, 0.0]), 0.05


def linear(params):
    return G @ params


def combined(preference):
    return (preference + GAMMA) @ G


def test_linear_objectives_by_hand():
    directions, influence = jax.jit(lambda p: (
        gradients.update_directions(linear, p, PREFERENCES, A, GAMMA),
        gradients.preference_influence(linear, p, PREFERENCES, PREFERENCES[0], A, GAMMA)))(PARAMS)
    np.testing.assert_allclose(directions, [-combined(k) for k in PREFERENCES], rtol=1e-6)
    first = combined(PREFERENCES[0])
    for i, k in enumerate(PREFERENCES):
        g = combined(k)
        size = np.linalg.norm(g)
        np.testing.assert_allclose(influence.norms[i], size, rtol=1e-6)
        np.testing.assert_allclose(influence.cosine[i], g @ first / size / np.linalg.norm(first), rtol=1e-5)
        np.testing.assert_allclose(influence.rates[i], -G @ g / size, rtol=1e-5)
    # The first preference raises the second objective: its gradients are in conflict.
    assert influence.rates[0, 0] < 0 < influence.rates[0, 1]


def test_directions_are_those_of_the_scalarised_loss():
    def curved(params):
        return jnp.stack([jnp.sum(params**2), jnp.sum(jnp.sin(params))])

    directions = gradients.update_directions(curved, PARAMS, PREFERENCES, A, GAMMA)
    for k, direction in zip(PREFERENCES, directions, strict=True):
        gradient = jax.grad(lambda p, k=k: losses.conic(curved(p), k, A, GAMMA))(PARAMS)
        np.testing.assert_allclose(direction, -gradient, rtol=1e-5)


def test_swept_under_jit_and_a_zero_direction():
    def influence(preferences, augmentation):
        return gradients.preference_influence(linear, PARAMS, preferences, PREFERENCES[0], A, augmentation)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 jax.jit(influence)(PREFERENCES, GAMMA), influence(PREFERENCES, GAMMA))
    none = influence(np.zeros((1, 2), np.float32), 0.0)
    assert none.cosine[0] == none.norms[0] == 0
    np.testing.assert_array_equal(none.rates, np.zeros((1, 2)))
