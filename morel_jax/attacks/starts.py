"""Where an attack in a ball begins."""
from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from morel_jax.attacks.keys import example_keys
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.attacks.types import KeyOrKeys, Keys, Points

# Width of the normal start: the TRADES, MART and MOREL codes begin at x + 0.001 N(0, 1).
NORMAL_START_SCALE = 0.001


def _normal(keys: Keys, x: Points, epsilon: ArrayLike) -> Points:
    del epsilon
    return x + NORMAL_START_SCALE * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)


def _clean(keys: Keys, x: Points, epsilon: ArrayLike) -> Points:
    del keys, epsilon
    return x


_EVERYWHERE: dict[str, Callable] = {"normal": _normal, "clean": _clean}
STARTS = ("uniform", *_EVERYWHERE)


def start_point(start: str, key: KeyOrKeys, x: Points, epsilon: ArrayLike, norm: str = "linf") -> Points:
    """The starting point of an iterative attack, inside the ball and the box.

    Args:
        start: ``uniform`` in the ball, ``normal`` (x + 0.001 N(0, 1)), or ``clean`` (x itself).
        key: one key, or keys[n], one per example.
        x: images in [0, 1].
        epsilon: radius in pixel units of [0, 1].
        norm: of the ball, ``linf`` or ``l2``.

    Raises:
        ValueError: an unknown ``start`` or norm.
    """
    if start not in STARTS:
        raise ValueError(f"start must be one of {sorted(STARTS)}; got {start!r}.")
    geometry = known_norm(norm)
    begin = _EVERYWHERE.get(start, geometry.random_inside)
    return geometry.project(begin(example_keys(key, x.shape[0]), x, epsilon), x, epsilon)
