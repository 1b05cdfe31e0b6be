"""The Linf ball inside the box of images: the functions that attacks need of a norm."""
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from morel_jax.attacks.types import Keys, Points, Values


def project(x_adv: Points, x: Points, epsilon: ArrayLike) -> Points:
    """The nearest point to ``x_adv`` in [0, 1] and in the ball around images ``x``; radius in pixel units of [0, 1]."""
    return jnp.clip(jnp.clip(x_adv, x - epsilon, x + epsilon), 0.0, 1.0)


# Whether the box or the ball comes first changes nothing here.
project_from_box = project


def distance(x_adv: Points, x: Points) -> Values:
    """Linf distance of each example from its image."""
    return jnp.max(jnp.abs(x_adv - x), axis=tuple(range(1, x.ndim)))


def dual(gradient: Points) -> Values:
    """The dual norm of each example: by how much a step of unit length raises a linear function."""
    return jnp.sum(jnp.abs(gradient), axis=tuple(range(1, gradient.ndim)))


def direction(gradient: Points) -> Points:
    """The steepest ascent of unit length: the gradient's signs; 0 where it is NaN."""
    return jnp.where(jnp.isnan(gradient), 0, jnp.sign(gradient))


def random_boundary(keys: Keys, x: Points, epsilon: ArrayLike) -> Points:
    """A random point on the ball's boundary, clipped into the box: uniform noise scaled to length ``epsilon``."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0))(keys)
    longest = jnp.max(jnp.abs(noise), axis=tuple(range(1, x.ndim)), keepdims=True)
    return jnp.clip(x + epsilon * noise / longest, 0.0, 1.0)


def random_inside(keys: Keys, x: Points, epsilon: ArrayLike) -> Points:
    """A random point of the ball, uniform, not clipped."""
    noise = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype, -1.0, 1.0))(keys)
    return x + epsilon * noise
