"""Adam's descent in tanh space, where every point is an image in the box, as Carlini and Wagner's attacks take it."""
import math

import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike

from morel_jax.attacks.types import Counts, Images, Points, Values

# Keeps arctanh finite.
SMOOTHER = 0.999999
# Adam's.
_MEAN_DECAY, _SQUARE_DECAY, _TINY = 0.9, 0.999, 1e-8


class Descent(struct.PyTreeNode):
    """Adam's descent of each example from its own image.

    Attributes:
        point: where the network is evaluated next, in tanh space, where the image is (tanh(point) + 1) / 2.
        mean, square: Adam's running means of the gradient and of its square.
        time: Adam's steps so far.
    """
    point: Images
    mean: Images
    square: Images
    time: Counts


def to_tanh(x: Images) -> Images:
    """The point in tanh space of an image."""
    return jnp.arctanh((2 * x - 1) * SMOOTHER)


def from_tanh(point: Images) -> Images:
    """The image of a point in tanh space."""
    return (jnp.tanh(point) + 1) / 2


def new_descent(x: Images) -> Descent:
    """A descent that starts from the images ``x``."""
    zeros = jnp.zeros_like(x)
    return Descent(point=to_tanh(x), mean=zeros, square=zeros, time=jnp.zeros(x.shape[0], jnp.int32))


def descend(descent: Descent, gradient: Images, learning_rate: ArrayLike) -> Descent:
    """The descent after one of Adam's steps; ``gradient`` in tanh space."""
    time = like(descent.time + 1, gradient).astype(gradient.dtype)
    mean = _MEAN_DECAY * descent.mean + (1 - _MEAN_DECAY) * gradient
    square = _SQUARE_DECAY * descent.square + (1 - _SQUARE_DECAY) * gradient**2
    # 1 - decay**time, without the digits that float32 would lose.
    unbiased_mean = mean / -jnp.expm1(time * math.log(_MEAN_DECAY))
    unbiased_square = square / -jnp.expm1(time * math.log(_SQUARE_DECAY))
    change = unbiased_mean / (jnp.sqrt(unbiased_square) + _TINY)
    return Descent(point=descent.point - learning_rate * change, mean=mean, square=square, time=descent.time + 1)


def like(values: Values | Counts, x: Images) -> Points:
    """float[n] as float[n, 1, ..., 1], to go with ``x``."""
    return values.reshape((-1,) + (1,) * (x.ndim - 1))
