"""The L2 ball inside the box of images: the functions that attacks need of a norm."""
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from morel_jax.attacks.types import Keys, Points, Values

# Keeps a zero perturbation or gradient from becoming NaN.
_TINY = 1e-12


def norm(values: Points) -> Points:
    """L2 norm of each example, float[n, 1, ..., 1]."""
    return jnp.sqrt(jnp.sum(values**2, axis=tuple(range(1, values.ndim)), keepdims=True))


def distance(x_adv: Points, x: Points) -> Values:
    """L2 distance of each example from its image."""
    return norm(x_adv - x).reshape(x.shape[0])


def dual(gradient: Points) -> Values:
    """The dual norm of each example: L2 again."""
    return norm(gradient).reshape(gradient.shape[0])


def direction(gradient: Points) -> Points:
    """The steepest ascent of unit length: the gradient itself, normalised; 0 where it is 0, NaN or infinite."""
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    return gradient / (norm(gradient) + _TINY)


def project(x_adv: Points, x: Points, epsilon: ArrayLike) -> Points:
    """A point in the ball of radius ``epsilon`` around ``x`` and in [0, 1]: scaled into the ball, then clipped.

    Clipping moves each pixel towards ``x``, so the point stays in the ball.
    """
    delta = x_adv - x
    return jnp.clip(x + direction(delta) * jnp.minimum(norm(delta), epsilon), 0.0, 1.0)


def project_from_box(x_adv: Points, x: Points, epsilon: ArrayLike) -> Points:
    """A point in the ball and in [0, 1], as TRADES has it in L2: clipped, then scaled into the ball.

    What is clipped away leaves room for the rest, so the point is at least as far from ``x`` as :func:`project`'s.
    """
    delta = jnp.clip(x_adv, 0.0, 1.0) - x
    return jnp.clip(x + direction(delta) * jnp.minimum(norm(delta), epsilon), 0.0, 1.0)  # Where that rounds out of it.


def random_inside(keys: Keys, x: Points, epsilon: ArrayLike) -> Points:
    """A random point of the ball, uniform, not clipped into the box."""
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
    uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (1,) * (x.ndim - 1), x.dtype))(keys)
    return x + epsilon * uniform ** (1 / x[0].size) * direction(noise)


def random_boundary(keys: Keys, x: Points, epsilon: ArrayLike) -> Points:
    """A random point on the ball's boundary, clipped into the box: normal noise scaled to length ``epsilon``."""
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
    return jnp.clip(x + epsilon * direction(noise), 0.0, 1.0)
