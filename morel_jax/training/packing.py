"""Many small arrays as one, so that an accelerator works on them by one operation."""
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from morel_jax.optimizer import moved
from morel_jax.training.state import TrainState


def pack(tree: PyTree) -> dict[str, Any]:
    """The vectors and scalars of a tree joined to one vector for each type.

    Args:
        tree: of arrays.

    Returns:
        ``{"vectors": {type: array[m]}, "arrays": […]}``; the second are the arrays of two axes or more, as they are.
    """
    vectors: dict[str, list] = {}
    arrays = []
    for leaf in jax.tree.leaves(tree):
        if leaf.ndim < 2:
            vectors.setdefault(str(leaf.dtype), []).append(jnp.ravel(leaf))
        else:
            arrays.append(leaf)
    return {"vectors": {dtype: jnp.concatenate(parts) for dtype, parts in vectors.items()}, "arrays": arrays}


def unpack(packed: dict[str, Any], like: PyTree) -> PyTree:
    """The inverse of :func:`pack`.

    Args:
        packed: from :func:`pack`.
        like: a tree of arrays or shapes like the one that was packed.
    """
    leaves, structure = jax.tree.flatten(like)
    arrays, starts = iter(packed["arrays"]), dict.fromkeys(packed["vectors"], 0)
    whole = []
    for leaf in leaves:
        if leaf.ndim < 2:
            dtype = str(leaf.dtype)
            start = starts[dtype]
            starts[dtype] += leaf.size
            whole.append(packed["vectors"][dtype][start:start + leaf.size].reshape(leaf.shape))
        else:
            whole.append(next(arrays))
    return jax.tree.unflatten(structure, whole)


def _is_like(params: PyTree) -> Callable[[PyTree], bool]:
    structure: Any = jax.tree.structure(params)
    return lambda tree: structure == jax.tree.structure(tree)


def pack_optimizer(opt_state: PyTree, params: PyTree) -> PyTree:
    """An Optax state with each part that is a tree like ``params`` packed."""
    is_like = _is_like(params)
    return jax.tree.map(lambda part: pack(part) if is_like(part) else part, opt_state, is_leaf=is_like)


def unpack_optimizer(packed: PyTree, opt_state: PyTree, params: PyTree) -> PyTree:
    """The inverse of :func:`pack_optimizer`; ``opt_state`` is one like the result."""
    is_like = _is_like(params)
    return jax.tree.map(lambda part, own: unpack(own, params) if is_like(part) else own, opt_state, packed,
                        is_leaf=is_like)


def moved_in_turn(average: PyTree, latest: Sequence[PyTree], kept: ArrayLike, is_packed: bool) -> PyTree:
    """Running averages after some values more, one after another.

    Args:
        average: the old ones.
        latest: trees like ``average``.
        kept: the share of the old ones, each time.
        is_packed: whether to work on packed trees.
    """
    join = pack if is_packed else lambda tree: tree
    moving = join(average)
    for tree in latest:
        moving = moved(moving, join(tree), kept)
    return unpack(moving, average) if is_packed else moving


def descend(optimizer: optax.GradientTransformation, rate: Float[Array, ""], state: TrainState, grads: PyTree,
            packed: dict[str, Any] | None) -> tuple[PyTree, PyTree]:
    """One step of the optimiser.

    Args:
        optimizer: Optax transformation without learning rate.
        rate: the learning rate.
        state: of the run.
        grads: like ``state.params``.
        packed: :func:`pack` of the gradients, for an optimiser that works on each number by itself; None for one that
            looks at whole arrays, at their norms or their names.

    Returns:
        (params, opt_state): the new ones.
    """
    def down(params: PyTree, updates: PyTree) -> PyTree:
        return jax.tree.map(lambda p, u: p - rate * u, params, updates)

    if packed is None:
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return down(state.params, updates), opt_state
    small = pack(state.params)
    updates, opt_state = optimizer.update(packed, pack_optimizer(state.opt_state, state.params), small)
    return unpack(down(small, updates), state.params), unpack_optimizer(opt_state, state.opt_state, state.params)
