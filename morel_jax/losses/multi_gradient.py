"""Methods that combine the gradients of two objectives into one direction, w_1 g_1 + w_2 g_2.

They need only the Gram matrix [[g_1.g_1, g_1.g_2], [g_1.g_2, g_2.g_2]]. Weights have its dtype and are finite if it is.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Gram = Float[Array, "2 2"]
Weights = Float[Array, "2"]

# Steps of the golden section, each of which leaves 0.618 of an interval: past float32's precision.
_SECTIONS = 40
_GOLDEN = (5**0.5 - 1) / 2


def _tiny(gram: Gram) -> np.floating:
    return jnp.finfo(gram.dtype).tiny


def mgda(gram: Gram) -> Weights:
    """Multiple gradient descent: the shortest vector between the two gradients, which descends both.

        w = (a, 1 - a),   a = clip((g_2 - g_1).g_2 / |g_1 - g_2|^2, 0, 1)

    Returns:
        Weights of at least 0, of sum 1; halves where the gradients are equal.

    Reference: Desideri, C. R. Acad. Sci. Paris 350 (2012); for deep networks Sener and Koltun, arXiv:1810.04650, Eq. 4.
    """
    distance = gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]
    first = jnp.where(distance > 0, (gram[1, 1] - gram[0, 1]) / jnp.maximum(distance, _tiny(gram)), 0.5)
    first = jnp.clip(first, 0, 1)
    return jnp.stack([first, 1 - first])


def pcgrad(gram: Gram) -> Weights:
    """Projecting conflicting gradients: the sum, after each loses its part along the other if they conflict.

        w = (1 - g_1.g_2 / |g_1|^2, 1 - g_1.g_2 / |g_2|^2) where g_1.g_2 < 0, else (1, 1)

    Returns:
        Weights of at least 1.

    Reference: Yu et al., arXiv:2001.06782, Algorithm 1; with two objectives its random order changes nothing.
    """
    norms = jnp.stack([gram[0, 0], gram[1, 1]])
    conflict = jnp.minimum(gram[0, 1], 0)
    return jnp.where(norms > 0, 1 - conflict / jnp.maximum(norms, _tiny(gram)), 1)


def cagrad(gram: Gram, closeness: ArrayLike = 0.4) -> Weights:
    """Conflict-averse gradient: the direction near the mean gradient along which the worse objective falls fastest.

        max_d min_i g_i.d   with |d - g_0| <= c |g_0|,   g_0 = (g_1 + g_2) / 2
        d = g_0 + c |g_0| / |g_u| g_u,   u in the simplex minimising g_u.g_0 + c |g_0| |g_u|

    The dual is convex in one number, which a golden section finds.

    Args:
        closeness: c in [0, 1); 0 is the mean gradient; may be traced. 0.4 is the authors' for two tasks.

    Returns:
        Weights of at least 1/2.

    Reference: Liu et al., arXiv:2110.14048, Eqs. 3 and 5.
    """
    # The weights do not depend on the gradients' size.
    scale = jnp.maximum(jnp.max(jnp.abs(gram)), _tiny(gram))
    gram, mean = gram / scale, jnp.full(2, 0.5, gram.dtype)
    radius = closeness * jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0))

    def weights(first: Float[Array, ""]) -> Weights:
        return jnp.stack([first, 1 - first])

    def length(u: Weights) -> Float[Array, ""]:
        return jnp.sqrt(jnp.maximum(u @ gram @ u, 0))

    def dual(first: Float[Array, ""]) -> Float[Array, ""]:
        u = weights(first)
        return u @ gram @ mean + radius * length(u)

    def narrow(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        keep_left = dual(left) < dual(right)
        return jnp.where(keep_left, low, left), jnp.where(keep_left, right, high)

    ends = jnp.zeros_like(gram[0, 0]), jnp.ones_like(gram[0, 0])  # Like gram, in a shard_map too.
    low, high = jax.lax.fori_loop(0, _SECTIONS, narrow, ends)
    u = weights((low + high) / 2)
    size = length(u)
    return mean + jnp.where(size > 0, radius / jnp.maximum(size, _tiny(gram)), 0) * u


def nash(gram: Gram) -> Weights:
    """Nash-MTL's bargaining solution: the direction in which the product of both gains is largest.

        G alpha = 1 / alpha;   for two objectives  alpha_i = 1 / (|g_i| sqrt(1 + cos(g_1, g_2)))

    Returns:
        Positive weights. The cosine counts as at least -0.999, as opposed gradients leave no gain to bargain for; a
        zero gradient counts as the smallest positive one.

    Reference: Navon et al., arXiv:2202.01017, Eq. 3, solved in closed form.
    """
    smallest = jnp.sqrt(jnp.asarray(_tiny(gram)))
    first, second = (jnp.maximum(jnp.sqrt(gram[i, i]), smallest) for i in (0, 1))
    cosine = jnp.clip(gram[0, 1] / first / second, -0.999, 1)
    weight = 1 / jnp.sqrt(1 + cosine)
    return jnp.stack([weight / first, weight / second])


METHODS: dict[str, Callable[[Gram], Weights]] = {"mgda": mgda, "pcgrad": pcgrad, "cagrad": cagrad, "nash": nash}
