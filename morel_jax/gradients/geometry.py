"""Lengths and angles of the rows of an array, differentiable at zero and free of underflow.

Input gradients of a confident network are tiny, down to 1e-30 and exact zeros; float32 cannot hold their squares.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Rows = Float[Array, "n d"]
PerRow = Float[Array, "n 1"]


def flatten(values: Float[Array, "n ..."]) -> Rows:
    """Each example as one row."""
    return values.reshape(values.shape[0], -1)


def column(numbers: Float[Array, " n"], like: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """``numbers`` as float[n, 1, ...] with as many axes as ``like``."""
    return numbers.reshape(-1, *(1,) * (like.ndim - 1))


def _scaled(rows: Rows) -> tuple[Rows, PerRow, PerRow, Bool[Array, "n 1"]]:
    """Rows divided by their largest entry; and their lengths then, that entry, and whether it is not zero."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=-1, keepdims=True))
    present = largest != 0  # True for NaN, which stays NaN.
    largest = jnp.where(present, largest, 1)
    scaled = rows / largest
    # The root of 1 for a zero row, as that of 0 has no derivative.
    return scaled, jnp.sqrt(jnp.where(present, jnp.sum(scaled**2, axis=-1, keepdims=True), 1)), largest, present


def _l2(rows: Rows) -> Float[Array, " n"]:
    _, lengths, largest, present = _scaled(rows)
    return jnp.where(present, largest * lengths, 0)[:, 0]


_NORMS = {
    "l1": lambda rows: jnp.sum(jnp.abs(rows), axis=-1),
    "l2": _l2,
    "linf": lambda rows: jnp.max(jnp.abs(rows), axis=-1),
}


def norms(values: Float[Array, "n ..."], norm: str = "l2") -> Float[Array, " n"]:
    """Norm of each row: ``l1``, ``l2``, whose gradient at a zero row is 0, or ``linf``; static.

    Raises:
        ValueError: an unknown norm.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {', '.join(_NORMS)}; got {norm!r}.")
    return _NORMS[norm](flatten(values))


def unit(values: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """Rows divided by their L2 norms; a zero row stays zero, and its gradient finite."""
    scaled, lengths, *_ = _scaled(flatten(values))
    return (scaled / lengths).reshape(values.shape)


def cosines(a: Float[Array, "n ..."], b: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Cosine of the angle between rows, in [-1, 1] up to rounding; 0 where a row is zero, with finite gradients."""
    return jnp.sum(flatten(unit(a)) * flatten(unit(b)), axis=-1)
