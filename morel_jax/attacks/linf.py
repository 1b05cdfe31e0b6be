"""The Linf ball inside the box of images: what attacks need of a norm, and starting points."""
import jax
import jax.numpy as jnp

from morel_jax.attacks.keys import example_keys

# Width of the normal start: the TRADES, MART and MOREL codes begin at x + 0.001 N(0, 1).
NORMAL_START_SCALE = 0.001


def project(x_adv, x, epsilon):
    """The nearest point to ``x_adv`` in the ball of radius ``epsilon`` around ``x`` and in [0, 1].

    Args:
        x_adv: float[n, ...].
        x: float[n, ...], images in [0, 1].
        epsilon: radius in pixel units of [0, 1].

    Returns:
        float[n, ...].
    """
    return jnp.clip(jnp.clip(x_adv, x - epsilon, x + epsilon), 0.0, 1.0)


def distance(x_adv, x):
    """Linf distance of each example from its image, float[n]."""
    return jnp.max(jnp.abs(x_adv - x), axis=tuple(range(1, x.ndim)))


def dual(gradient):
    """The dual norm of each example, float[n]: by how much a step of unit length raises a linear function."""
    return jnp.sum(jnp.abs(gradient), axis=tuple(range(1, gradient.ndim)))


def direction(gradient):
    """The steepest ascent of unit length: the gradient's signs; 0 where it is NaN."""
    return jnp.where(jnp.isnan(gradient), 0, jnp.sign(gradient))


def random_boundary(keys, x, epsilon):
    """A random point on the ball's boundary, clipped into the box: uniform noise scaled to length ``epsilon``."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0))(keys)
    longest = jnp.max(jnp.abs(noise), axis=tuple(range(1, x.ndim)), keepdims=True)
    return jnp.clip(x + epsilon * noise / longest, 0.0, 1.0)


def _uniform(keys, x, epsilon):
    noise = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype, -1.0, 1.0))(keys)
    return x + epsilon * noise


def _normal(keys, x, epsilon):
    del epsilon
    return x + NORMAL_START_SCALE * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)


def _clean(keys, x, epsilon):
    del keys, epsilon
    return x


STARTS = {"uniform": _uniform, "normal": _normal, "clean": _clean}


def start_point(start, key, x, epsilon):
    """Where an iterative attack begins, inside the ball and the box.

    Args:
        start: ``uniform`` in the ball, ``normal`` (x + 0.001 N(0, 1)), or ``clean`` (x itself).
        key: one key, or keys[n], one an example.
        x: float[n, ...], images in [0, 1].
        epsilon: radius in pixel units of [0, 1].

    Returns:
        float[n, ...].

    Raises:
        ValueError: an unknown ``start``.
    """
    if start not in STARTS:
        raise ValueError(f"start must be one of {sorted(STARTS)}; got {start!r}.")
    return project(STARTS[start](example_keys(key, x.shape[0]), x, epsilon), x, epsilon)
