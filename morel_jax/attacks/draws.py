"""Networks that answer at random: means over their draws, the expectation over transformations (arXiv:1802.00420)."""
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from morel_jax.attacks.keys import example_keys, fold_in_name, fold_in_rows
from morel_jax.attacks.types import Images, KeyOrKeys, Keys, LogitsFn

Means = TypeVar("Means", bound=PyTree)


def draw_keys(eot: int, key: KeyOrKeys, count: int) -> Keys | None:
    """Keys of ``count`` examples for :func:`mean_over_draws`; None where ``eot`` is 1, a network without draws."""
    return None if eot == 1 else fold_in_name(example_keys(key, count), "eot")


def mean_over_draws(function: Callable[[LogitsFn], Means], logits_fn: LogitsFn, keys: Keys | None,
                    count: int | Array) -> Means:
    """The mean of ``function(network)`` over ``count`` draws of a network that answers at random.

    Args:
        function: of one draw, a network of images alone; returns a pytree of float arrays.
        logits_fn: called as ``logits_fn(x, keys)``.
        keys: keys[n], one per example; draw r folds r into each. None: the network takes no keys and is asked once.
    """
    if keys is None:
        return function(logits_fn)

    def draw(number: int | Array) -> Means:
        drawn = fold_in_rows(keys, jnp.broadcast_to(number, keys.shape))

        def network(x: Images) -> Array:
            return logits_fn(x, drawn)

        return function(network)

    def add(number: int | Array, total: Means) -> Means:
        return jax.tree.map(jnp.add, total, draw(number))

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: draw(0)))
    return jax.tree.map(lambda leaf: leaf / count, jax.lax.fori_loop(0, count, add, zero))
