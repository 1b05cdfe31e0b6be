"""Networks that make attacks fail, each in its own way, and one that does not.

All are a linear classifier of :class:`tests.attacks.linear.Linear` with something in front of it or behind it, and keep
its answers on its images.
"""
import jax
import jax.numpy as jnp
import numpy as np

from tests.attacks.linear import Linear

SHAPE = (8, 8, 1)
# Radius at which PGD breaks about half of the images of the healthy network; not a multiple of any grid.
EPSILON = 0.0487


def linear(count=60, seed=0):
    """The classifier and its images, whose pixels are multiples of 1/64."""
    network = Linear(classes=5, shape=SHAPE, count=count, seed=seed)
    network.x = np.round(network.x * 64).astype(np.float32) / 64
    network.y = np.argmax(network.logits(network.x), axis=-1).astype(np.int32)
    return network


def healthy(network):
    """The classifier itself."""
    return network.logits


def quantised(network):
    """Pixels rounded to 65 levels: zero gradients."""
    return lambda x: network.logits(jnp.round(x * 64) / 64)


def saturated(network):
    """Logits so large that the softmax is exactly 1."""
    return lambda x: 1e4 * network.logits(x)


def probabilities(network):
    """The softmax itself as output."""
    return lambda x: jax.nn.softmax(network.logits(x))


def _noise(generator, shape):
    return generator.normal(0, 0.01, shape).astype(np.float32)


def random(network):
    """Pixels with noise that NumPy draws: compiled, it stays what it was."""
    generator = np.random.default_rng(0)
    return lambda x: network.logits(x + _noise(generator, x.shape))


def random_when_compiled(network):
    """Pixels with noise that NumPy draws in a callback, each time anew."""
    generator = np.random.default_rng(0)

    def logits_fn(x):
        shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
        return network.logits(x + jax.pure_callback(lambda: _noise(generator, shape.shape), shape))

    return logits_fn


def nan_gradient(network):
    """A square root at zero, which changes no logit."""
    return lambda x: network.logits(x) + jnp.sqrt(jnp.maximum(x - 2, 0)).sum(axis=(1, 2, 3))[:, None]


def not_differentiable(network):
    """Computed by NumPy in a callback."""
    weights, bias = network.weights, network.bias

    def logits_fn(x):
        shape = jax.ShapeDtypeStruct((x.shape[0], bias.size), jnp.float32)
        return jax.pure_callback(lambda x: np.asarray(x).reshape(len(x), -1) @ weights + bias, shape, x)

    return logits_fn


def not_traceable(network):
    """Computed by NumPy."""
    return lambda x: np.asarray(x).reshape(len(x), -1) @ network.weights + network.bias


def backwards(network):
    """The gradient's sign is wrong."""
    @jax.custom_vjp
    def turn(x):
        return x

    turn.defvjp(lambda x: (x, None), lambda _, cotangent: (-cotangent,))
    return lambda x: network.logits(turn(x))


def shattered(network):
    """A ripple on each pixel, too small to change much, too steep to see through; it is flat at the images."""
    return lambda x: network.logits(x + 0.002 * jnp.sin(jnp.pi * 6400 * x) ** 2)


def wavy(network):
    """Waves around each of 33 levels: the pixel's way up goes down again, and the levels have no gradient."""
    return lambda x: network.logits(jnp.round(x * 32) / 32 + 0.05 * jnp.sin(2 * jnp.pi * 32 * x))


def deaf(network):
    """Pixels speak so softly that no image changes the answer, class 0."""
    return lambda x: 0.001 * network.logits(x) + jnp.array([1.0, 0, 0, 0, 0])
