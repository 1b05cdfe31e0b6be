"""Small quadratic programs on the positive orthant, solved exactly inside a compiled program."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Of the dtype's epsilon: added to the diagonal, and how far below 0 a slack may be that counts as 0.
_RIDGE, _SLACK = 100, 8


def solve_nonnegative(matrix: Float[Array, "m m"], vector: Float[Array, " m"]) -> Float[Array, " m"]:
    """The z that minimises z.(M z / 2 + q) over z >= 0.

    Its conditions are a linear complementarity problem: z >= 0, w = M z + q >= 0 and z_i w_i = 0. Principal pivots
    solve it: while some z_i or w_i is negative, the last such pair changes places. For a positive definite M no set of
    pairs comes twice. There are 2^m sets, and for m > 5 we stop after 8 m changes; a change or two for each negative
    q_i is usual.

    Args:
        matrix: M, symmetric, positive semi-definite, with a diagonal of about 1. A hundred roundings are added to the
            diagonal, so that of several solutions the one near the shortest is found, and all is finite.
        vector: q, of M's dtype, of size about 1.

    Reference: Murty, "Note on a Bard-type scheme for solving the complementarity problem", Opsearch 11 (1974).
    """
    size, rounding = len(vector), jnp.finfo(matrix.dtype).eps
    places = jnp.arange(size)
    slack = _SLACK * rounding * jnp.max(jnp.abs(vector))

    def change(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        table, values, is_free = carry
        negative = values < -slack
        chosen = places == jnp.max(jnp.where(negative, places, -1))  # None where no value is negative.
        row, column = (jnp.sum(jnp.where(mask, table, 0), axis) for mask, axis in ((chosen[:, None], 0), (chosen, 1)))
        diagonal = jnp.maximum(jnp.sum(jnp.where(chosen, row, 0)), rounding)
        value = jnp.sum(jnp.where(chosen, values, 0))
        new_row = jnp.where(chosen, 1, -row) / diagonal
        new_table = jnp.where(chosen, 0, table) + column[:, None] * new_row
        new_table = jnp.where(chosen[:, None], new_row, new_table)
        new_values = jnp.where(chosen, -value / diagonal, values - column * (value / diagonal))
        found = jnp.any(negative)
        return (jnp.where(found, new_table, table), jnp.where(found, new_values, values), is_free ^ chosen)

    ridge = jnp.where(jnp.eye(size, dtype=bool), _RIDGE * rounding, 0).astype(matrix.dtype)
    is_free: Bool[Array, " m"] = jnp.zeros_like(vector, dtype=bool)  # Like vector, in a shard_map too.
    changes = min(2**size, 32) if size <= 5 else 8 * size
    _, values, is_free = jax.lax.fori_loop(0, changes, change, (matrix + ridge, vector, is_free))
    return jnp.where(is_free, jnp.maximum(values, 0), 0)
