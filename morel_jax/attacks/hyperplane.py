"""The nearest point of a hyperplane inside the box of images.

Each pixel's direction and its room in the box are known. The smallest move onto the plane then depends on one number:
in Linf every pixel moves that far, in L2 in proportion to its weight, and each stops at the box. The distance covered
towards the plane is a concave, piecewise linear function of that number. So Newton's method from zero reaches the
answer exactly, without sorting.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from morel_jax.attacks.types import Values

Rows = Float[Array, "n d"]


def project_linf(x: Rows, w: Rows, b: Values) -> Rows:
    """The smallest move in Linf onto the hyperplane <w, x> = b that stays in [0, 1].

    Args:
        x: points in [0, 1].
        w, b: normals and offsets; a pixel of weight 0 does not move.

    Returns:
        The moves: x + move is on the plane, or in the corner of the box nearest to it if the plane does not meet the
        box; 0 where w is 0.

    Reference: the projection of Croce and Hein, arXiv:1907.02044, solved differently.
    """
    return _project(x, w, b, lambda weights: 1.0)


def project_l2(x: Rows, w: Rows, b: Values) -> Rows:
    """As :func:`project_linf`, the smallest move in L2."""
    return _project(x, w, b, lambda weights: weights)


# By the names of `morel_jax.attacks.norms`.
PROJECTIONS = {"linf": project_linf, "l2": project_l2}


def _project(x: Rows, w: Rows, b: Values, speeds: Callable[[Rows], Rows | float]) -> Rows:
    scale = jnp.max(jnp.abs(w), axis=-1, keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)  # So that products of tiny weights don't vanish.
    w = w / scale
    above = jnp.sum(w * x, axis=-1, keepdims=True) - b[:, None] / scale
    falls = (w > 0) == (above >= 0)
    room = jnp.where(w == 0, 0, jnp.maximum(jnp.where(falls, x, 1 - x), 0))
    weights = jnp.abs(w)
    return jnp.where(falls, -1, 1) * _lengths(weights, speeds(weights), room, jnp.abs(above))


def _lengths(weights: Rows, speeds: Rows | float, room: Rows, need: Float[Array, "n 1"]) -> Rows:
    """Lengths min(t speeds, room) with the t for which the sum of weights * lengths is ``need``."""
    cover, slopes = weights * room, weights * speeds

    def newton(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t, _ = carry
        free = t * speeds < room
        covered = jnp.sum(jnp.where(free, 0, cover), axis=-1, keepdims=True)
        slope = jnp.sum(jnp.where(free, slopes, 0), axis=-1, keepdims=True)
        onto = (need - covered) / jnp.where(slope > 0, slope, 1)
        # Rounding may put the answer a hair below t: then t is the answer.
        further = (slope > 0) & (onto > t)
        return jnp.where(further, onto, t), jnp.any(further)

    # A pixel that has met the box stays there, so there are at most d + 1 turns; a finished row keeps its t.
    t, _ = jax.lax.while_loop(lambda carry: carry[1], newton, (jnp.zeros_like(need), jnp.array(True)))
    return jnp.minimum(t * speeds, room)
