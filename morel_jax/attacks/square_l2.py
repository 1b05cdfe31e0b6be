"""Square Attack in the L2 ball: patterns of mass that move from one window of the image to another."""
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from morel_jax.attacks import l2
from morel_jax.attacks.types import Counts, Images, Mask

Window = Bool[Array, "n h w 1"]

# Keeps a window without mass from becoming NaN.
_TINY = 1e-12


def side(share: float, h: int, w: int) -> int:
    """Side of a window that covers ``share`` of the image: odd and at least 3, unless the image is smaller."""
    odd = max(round(math.sqrt(share * h * w)), 3) | 1
    return min(odd, h, w)


def _peak(h: int, w: int) -> Float[np.ndarray, "h w"]:
    """One half of a pattern, of length 1: mass that falls off with the square of the distance.

        eta_rs = sum_{m = d}^{n} 1 / (m + 1)^2,   d = max(|r - h // 2|, |s - w // 2|),   n = max(h // 2, w // 2)
    """
    far = np.maximum(abs(np.arange(h) - h // 2)[:, None], abs(np.arange(w) - w // 2))
    tails = np.cumsum(1.0 / np.arange(max(h // 2, w // 2) + 1, 0, -1) ** 2)[::-1]
    mass = tails[far]
    return mass / max(np.sqrt(np.sum(mass**2)), _TINY)


def pattern(side: int) -> Float[np.ndarray, "side side"]:
    """A peak above and an equal dip below, float32 of length 1."""
    whole = np.concatenate([_peak(side // 2, side), -_peak(side - side // 2, side)])
    return (whole / np.sqrt(np.sum(whole**2))).astype(np.float32)


@functools.lru_cache
def patterns(sides: tuple[int, ...]) -> Float[np.ndarray, "k largest largest"]:
    """Patterns of ``sides``, each in the upper left corner."""
    table = np.zeros((len(sides), max(sides), max(sides)), np.float32)
    for entry, side in zip(table, sides, strict=True):
        entry[:side, :side] = pattern(side)
    return table


def placed(table: Float[np.ndarray, "k largest largest"], number: Counts, top: Counts, left: Counts, lying: Mask,
           h: int, w: int) -> Float[Array, "n h w"]:
    """Patterns in their places, to be read within their windows alone.

    Args:
        table: see :func:`patterns`.
        number, top, left: which pattern, and where it begins.
        lying: whether it is transposed.
    """
    last = table.shape[-1] - 1
    down = jnp.clip(jnp.arange(h) - top[:, None], 0, last)[:, :, None]
    across = jnp.clip(jnp.arange(w) - left[:, None], 0, last)[:, None, :]
    number, lying = number[:, None, None], lying[:, None, None]
    return jnp.asarray(table)[number, jnp.where(lying, across, down), jnp.where(lying, down, across)]


def start(coins: Callable[[int], Bool[Array, "n count"]], x: Images, epsilon: ArrayLike) -> Images:
    """Images in the ball and in [0, 1] with a grid of patterns of a fifth of the image in side.

    Each pattern is upright or lying, of either sign in each channel; ``coins(count)`` are random booleans[n, count].
    """
    n, h, w, c = x.shape
    tile = max(min(h, w) // 5, 1)
    down, across = h // tile, w // tile
    drawn = coins(down * across * (1 + c)).reshape(n, down, 1, across, 1, 1 + c)
    upright = jnp.asarray(pattern(tile))
    shapes = jnp.where(drawn[..., :1], upright.T[:, None, :, None], upright[:, None, :, None])
    tiles = jnp.where(drawn[..., 1:], shapes, -shapes)
    margins = [(free // 2, free - free // 2) for free in (h - down * tile, w - across * tile)]
    delta = jnp.pad(tiles.reshape(n, down * tile, across * tile, c), [(0, 0), *margins, (0, 0)])
    return _onto_the_ball(delta, x, epsilon)


def move(best: Images, x: Images, epsilon: ArrayLike, fresh: Images, into: Window, out_of: Window) -> Images:
    """Moves the mass of two windows into the first of them; gives images in the ball and in [0, 1].

    There, in each channel, the old content and the new pattern are added, each at length 1. The sum gets the length
    that both windows had together, and the channel's share of what the ball leaves unused.

    Args:
        best, x: where to begin, and images in [0, 1].
        fresh: the new pattern, within ``into``.
    """
    def length(values: Images) -> Float[Array, "n 1 1 c"]:
        return jnp.sqrt(jnp.sum(values**2, axis=(1, 2), keepdims=True))

    delta = best - x
    unused = jnp.maximum(epsilon**2 - l2.norm(delta) ** 2, 0.0)
    available = jnp.sqrt(length(delta * (into | out_of)) ** 2 + unused / x.shape[-1])
    there = delta * into
    mixed = fresh + there / (length(there) + _TINY)
    mixed = mixed * (available / (length(mixed) + _TINY))
    return _onto_the_ball(jnp.where(into, mixed, jnp.where(out_of, 0.0, delta)), x, epsilon)


def _onto_the_ball(delta: Images, x: Images, epsilon: ArrayLike) -> Images:
    return jnp.clip(x + l2.direction(delta) * epsilon, 0.0, 1.0)
