"""Lengths and angles of the gradients of several objectives, over all parameters and layer by layer."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PyTree

from morel_jax.losses import gram


@struct.dataclass
class Conflict:
    """The gradients of m objectives, compared in pairs.

    Attributes:
        norms: float[..., m], L2, each in its objective's units per unit of the parameters.
        cosine: float[..., m, m] in [-1, 1]; negative where a step against one gradient raises the other objective, and
            0 where a gradient is zero, on the diagonal too.
        angle: float[..., m, m], radians in [0, pi]; pi / 2 where a gradient is zero. Near 0 or pi float32 leaves an
            error of about 1e-3.
        norm_ratio: float[..., m, m], norms[i] / norms[j]; 1 where both are zero.
    """
    norms: jax.Array
    cosine: jax.Array
    angle: jax.Array
    norm_ratio: jax.Array


def objective_gradients(objectives: Callable[[PyTree], Float[Array, " m"]],
                        params: PyTree) -> tuple[Float[Array, " m"], PyTree]:
    """Values, and gradients with a leading axis m, by one forward pass and one vmapped backward pass.

    Raises:
        ValueError: ``objectives`` gives anything but one axis (found while tracing).
    """
    values, pull_back = jax.vjp(objectives, params)
    if values.ndim != 1:
        raise ValueError(f"objectives must give shape [num_objectives]; got {values.shape}.")
    # Made from ``values``, so that inside a shard_map it varies as they do.
    each = jnp.where(jnp.eye(values.shape[0], dtype=bool), jnp.ones_like(values), jnp.zeros_like(values))
    (gradients,) = jax.vmap(pull_back)(each)
    return values, gradients


def gram_per_layer(gradients: PyTree, depth: int | None = 1) -> dict[str, Float[Array, "m m"]]:
    """:func:`gram` of each group of parameters.

    Args:
        gradients: as in :func:`gram`.
        depth: how many names of a parameter's path define its group: 1 for the top-level modules, None for single
            arrays; static.

    Returns:
        {path: float[m, m]}, names joined by ``/``, in the tree's order; the matrices add up to :func:`gram`.

    Raises:
        ValueError: ``depth`` is below 1.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1, or None for single arrays; got {depth}.")
    groups: dict[str, list] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path[:depth], simple=True, separator="/")
        groups.setdefault(name, []).append(leaf)
    return {name: gram(leaves) for name, leaves in groups.items()}


def compare(products: Float[Array, "... m m"]) -> Conflict:
    """Lengths and angles from a Gram matrix, of :func:`gram`."""
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(products, axis1=-2, axis2=-1), 0))
    first, second = norms[..., :, None], norms[..., None, :]
    divisors = jnp.where(norms == 0, 1, norms)
    # One division after the other: the product of two norms may underflow.
    cosine = jnp.clip(products / divisors[..., :, None] / divisors[..., None, :], -1, 1)
    ratio = jnp.where(second == 0, jnp.where(first == 0, 1, jnp.inf), first / divisors[..., None, :])
    return Conflict(norms, cosine, jnp.arccos(cosine), ratio)


def conflict(objectives: Callable[[PyTree], Float[Array, " m"]], params: PyTree) -> Conflict:
    """Compares the gradients of objectives, such as MOREL's two losses on one batch, over all parameters.

    Reference: conflict as a negative cosine, Yu et al., arXiv:2001.06782, Definition 1.
    """
    return compare(gram(objective_gradients(objectives, params)[1]))


def conflict_per_layer(objectives: Callable[[PyTree], Float[Array, " m"]], params: PyTree,
                       depth: int | None = 1) -> dict[str, Conflict]:
    """:func:`conflict` of each group of parameters, by path; ``depth`` and errors as in :func:`gram_per_layer`."""
    products = gram_per_layer(objective_gradients(objectives, params)[1], depth)
    return {name: compare(product) for name, product in products.items()}
