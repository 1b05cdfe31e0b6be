"""Networks that make attacks fail, each in its own way, and one that does not.

All are a linear classifier of :class:`tests.attacks.linear.Linear` with something in front of it or behind it, which
hardly changes its logits on its own images.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.attacks.linear import Linear

# Radius at which PGD breaks more than half of the images of the healthy network; not a multiple of any grid.
EPSILON = 0.0487

NETWORK = Linear(classes=5, shape=(8, 8, 1), count=60)
# On the levels where waves and ripples are flat.
NETWORK.x = np.round(NETWORK.x * 64).astype(np.float32) / 64


def _healthy(x):
    """The classifier itself."""
    return NETWORK.logits(x)


def _quantised(x):
    """Pixels rounded to 65 levels: zero gradients."""
    return NETWORK.logits(jnp.round(x * 64) / 64)


def _saturated(x):
    """Logits so large that the softmax is 1."""
    return 1e4 * NETWORK.logits(x)


def _probabilities(x):
    """The softmax itself as output."""
    return jax.nn.softmax(NETWORK.logits(x))


def _nan_gradient(x):
    """A square root at zero, which changes no logit."""
    return NETWORK.logits(x) + jnp.sqrt(jnp.maximum(x - 2, 0)).sum(axis=(1, 2, 3))[:, None]


@jax.custom_vjp
def _turn(x):
    return x


_turn.defvjp(lambda x: (x, None), lambda _, cotangent: (-cotangent,))


def _backwards(x):
    """The gradient's sign is wrong."""
    return NETWORK.logits(_turn(x))


def _shattered(x):
    """A ripple on each pixel, too small to change much, too steep to see through; it is flat at the images."""
    return NETWORK.logits(x + 0.002 * jnp.sin(jnp.pi * 6400 * x) ** 2)


def _wavy(x):
    """Waves around each of 33 levels: a pixel's way up soon goes down again, and the levels have no gradient."""
    return NETWORK.logits(jnp.round(x * 32) / 32 + 0.05 * jnp.sin(2 * jnp.pi * 32 * x))


def _deaf(x):
    """Pixels speak so softly that no image changes the answer, class 0."""
    return 0.001 * NETWORK.logits(x) + jnp.array([1.0, 0, 0, 0, 0])


_MASKS = (_healthy, _quantised, _saturated, _probabilities, _nan_gradient, _backwards, _shattered, _wavy, _deaf)


def _masked(number, x):
    return jax.lax.switch(number, _MASKS, x)


_GENERATOR = np.random.default_rng(0)


def _noise(shape):
    return _GENERATOR.normal(0, 0.01, shape).astype(np.float32)


def _random(x):
    """Pixels with noise that NumPy draws: compiled, it stays what it was."""
    return NETWORK.logits(x + _noise(x.shape))


def _random_when_compiled(x):
    """Pixels with noise that NumPy draws in a callback, each time anew."""
    return NETWORK.logits(x + jax.pure_callback(functools.partial(_noise, x.shape),
                                                jax.ShapeDtypeStruct(x.shape, jnp.float32)))


def _not_traceable(x):
    """Computed by NumPy."""
    return np.asarray(x).reshape(len(x), -1) @ NETWORK.weights + NETWORK.bias


def _not_differentiable(x):
    """Computed by NumPy in a callback."""
    return jax.pure_callback(_not_traceable, jax.ShapeDtypeStruct((len(x), 5), jnp.float32), x)


_OTHERS = (_random, _random_when_compiled, _not_traceable, _not_differentiable)


def network(name):
    """The network of that name, ``logits_fn``; most are one function with a number, compiled once for all of them."""
    names = [mask.__name__[1:] for mask in _MASKS]
    if name in names:
        return jax.tree_util.Partial(_masked, np.int32(names.index(name)))
    return {mask.__name__[1:]: mask for mask in _OTHERS}[name]


def images(name):
    """(x, y): the classifier's images, and the network's own answers."""
    return NETWORK.x, np.argmax(np.asarray(network(name)(NETWORK.x)), axis=-1).astype(np.int32)
