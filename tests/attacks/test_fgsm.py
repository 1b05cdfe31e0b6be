import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from morel_jax.attacks import PGD
from morel_jax.attacks.fgsm import FGSM
from tests.attacks.linear import Linear

KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=1)
def attacked(attack, logits_fn, x, y):
    return attack(logits_fn, KEY, x, y)

# Logits (x_1 - x_2 + 3 x_4, 0): the gradient for label 0 has signs (-, +, 0, -), for label 1 the reverse.
WEIGHTS = jnp.array([[1.0, 0], [-1, 0], [0, 0], [3, 0]])
PIXELS = np.array([0.5, 0.95, 0.5, 0.05], np.float32)


def by_hand(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def test_value_by_hand():
    """Steps of epsilon against the label, cut at the box; a pixel without influence stays."""
    x = np.broadcast_to(PIXELS.reshape(2, 2, 1), (2, 2, 2, 1))
    x_adv = attacked(FGSM(0.1), by_hand, x, np.array([0, 1]))
    expected = [[0.4, 1.0, 0.5, 0.0], [0.6, 0.85, 0.5, 0.15]]
    np.testing.assert_allclose(x_adv.reshape(2, 4), expected, atol=1e-6)


def test_is_one_step_of_pgd():
    model = Linear()
    one_step = attacked(PGD(0.2, 0.2, num_steps=1, start="clean"), model.logits, model.x, model.y)
    np.testing.assert_allclose(attacked(FGSM(0.2), model.logits, model.x, model.y), one_step, atol=1e-7)


def test_ball_and_box_hold():
    model = Linear(count=40)
    x_adv = attacked(FGSM(0.5), model.logits, model.x, model.y)
    assert np.abs(x_adv - model.x).max() <= 0.5 + 1e-6
    assert x_adv.min() == 0
    assert x_adv.max() == 1


def test_radius_zero_returns_the_images():
    model = Linear()
    np.testing.assert_array_equal(attacked(FGSM(0.0), model.logits, model.x, model.y), model.x)


def test_vmap_over_radii_compiles_once_and_equals_a_loop():
    model = Linear()

    @jax.jit
    @chex.assert_max_traces(1)
    def run(attack):
        return attack(model.logits, KEY, model.x, model.y)

    radii = np.float32([0.01, 0.1])
    together = jax.jit(jax.vmap(lambda radius: FGSM(radius)(model.logits, KEY, model.x, model.y)))(radii)
    np.testing.assert_allclose(together, [run(FGSM(radius)) for radius in radii], atol=1e-7)


def test_no_gradient_flows_through_the_attack():
    model = Linear()

    def loss(scale):
        return FGSM(0.1)(lambda z: scale * model.logits(z), KEY, model.x, model.y).sum()

    assert jax.jit(jax.grad(loss))(1.0) == 0


def test_in_l2_it_is_a_step_along_the_gradient():
    model = Linear(count=6)
    x_adv = attacked(FGSM(0.2, "l2"), model.logits, model.x, model.y)
    np.testing.assert_allclose(np.linalg.norm((x_adv - model.x).reshape(6, -1), axis=1), 0.2, rtol=1e-5)
    one_step = attacked(PGD(0.2, 0.2, num_steps=1, start="clean", norm="l2"), model.logits, model.x, model.y)
    np.testing.assert_allclose(x_adv, one_step, atol=1e-6)
