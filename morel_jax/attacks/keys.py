"""Random keys, one per example, so that no example's noise depends on its batch."""
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from morel_jax.attacks.types import Counts, KeyOrKeys, Keys


def example_keys(key: KeyOrKeys, count: int) -> Keys:
    """One key per example.

    Args:
        key: a key, from which example i gets ``fold_in(key, i)``; or an array of ``count`` keys, used as they are (made
            from the examples' own indices, they make results independent of the batch).

    Raises:
        ValueError: ``key`` is an array of another length.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        return fold_in_each(key, jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"key must be one key or an array of {count} keys, one per example; got shape {key.shape}.")
    return key


def fold_in_each(key: KeyOrKeys, indices: Int[Array | np.ndarray, " n"]) -> Keys:
    """Keys that depend on ``key`` and on ``indices`` alone."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def fold_in_rows(keys: Keys, numbers: Counts) -> Keys:
    """Each of ``keys`` with its own entry of ``numbers`` folded in."""
    return jax.vmap(jax.random.fold_in)(keys, numbers)


def fold_in_name(keys: KeyOrKeys, name: str) -> KeyOrKeys:
    """Key or keys that depend on ``keys`` and on a name, such as an attack's."""
    number = zlib.crc32(name.encode())
    if keys.ndim == 0:
        return jax.random.fold_in(keys, number)
    return fold_in_rows(keys, jnp.full(keys.shape, number, jnp.uint32))
