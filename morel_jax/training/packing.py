"""Many small arrays as one, so that an accelerator works on them by one operation."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


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
