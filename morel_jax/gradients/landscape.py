"""Losses along lines and on planes through weights or through images."""
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Key, PyTree

from morel_jax.attacks.keys import example_keys
from morel_jax.attacks.types import KeyOrKeys, Labels, LogitsFn, Points
from morel_jax.gradients.geometry import column, flatten
from morel_jax.gradients.per_example import Loss, input_gradients
from morel_jax.losses import cross_entropy


def surface(function: Callable[[PyTree], PyTree], origin: PyTree, directions: Sequence[PyTree],
            coordinates: Sequence[ArrayLike], batch_size: int | None = None) -> PyTree:
    """A function's values on a grid with one axis per direction.

        values[i, j] = function(origin + s_i d_1 + t_j d_2)

    Args:
        function: such as a loss of the parameters, or the losses float[n] of images.
        directions: pytrees like ``origin``, usually one or two.
        coordinates: as many arrays float[k], positions along the directions.
        batch_size: points evaluated at a time, static; None: one, in the memory of one.

    Returns:
        Like the function's result, with leading axes of the coordinates' lengths.

    Raises:
        ValueError: no direction, or not as many coordinates as directions.
    """
    if not directions or len(directions) != len(coordinates):
        raise ValueError("directions and coordinates must have the same length, at least 1; "
                         f"got {len(directions)} and {len(coordinates)}.")
    coordinates = [jnp.asarray(along) for along in coordinates]

    def at(position: tuple[Array, ...]) -> PyTree:
        point = origin
        for length, direction in zip(position, directions, strict=True):
            point = jax.tree.map(lambda p, d, length=length: p + (length * d).astype(p.dtype), point, direction)
        return function(point)

    grid = jnp.meshgrid(*coordinates, indexing="ij")
    values = jax.lax.map(at, tuple(axis.ravel() for axis in grid), batch_size=batch_size)
    return jax.tree.map(lambda leaf: leaf.reshape(*grid[0].shape, *leaf.shape[1:]), values)


def filter_normalised_direction(key: Key[Array, ""], params: PyTree, ignore: str | None = "biasbn") -> PyTree:
    """A random direction in which each filter is as long as that of the weights.

    A filter is all axes of a kernel but the last, which make one output. Before BatchNorm the length of weights means
    nothing; along such directions the surfaces of different networks are comparable.

    Args:
        params: kernels have their outputs on the last axis.
        ignore: ``biasbn`` keeps biases and BatchNorm's scales, all arrays of one axis, fixed (direction 0); None moves
            them along themselves, as the published code does. Static.

    Raises:
        ValueError: an unknown ``ignore``.

    Reference: Li et al., arXiv:1712.09913, section 4, and the code published with it.
    """
    if ignore not in ("biasbn", None):
        raise ValueError(f"ignore must be 'biasbn' or None; got {ignore!r}.")

    def rescale(direction: Array, weights: Array) -> Array:
        if weights.ndim <= 1:
            return jnp.zeros_like(weights) if ignore == "biasbn" else weights
        axes = tuple(range(weights.ndim - 1))
        of_weights, of_direction = (jnp.sqrt(jnp.sum(a**2, axis=axes)) for a in (weights, direction))
        return direction * of_weights / (of_direction + 1e-10)  # The published code's constant.

    return jax.tree.map(rescale, optax.tree.random_like(key, params), params)


def input_directions(logits_fn: LogitsFn, key: KeyOrKeys, x: Points, y: Labels,
                     loss: Loss = cross_entropy) -> tuple[Points, Points]:
    """Two directions for a surface of the loss around images: the steepest in Linf, and a random one across it.

    Args:
        logits_fn, x, y, loss: as in :func:`input_gradients`.
        key: one key, or one per example.

    Returns:
        (signs, across): the signs of the loss's gradient, and random signs made orthogonal to them, row by row.
        Coordinates are in pixel units, for ``across`` roughly.
    """
    signs = jnp.sign(input_gradients(logits_fn, x, y, loss))
    keys = example_keys(key, x.shape[0])
    random = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(keys)
    length = jnp.sum(flatten(signs**2), axis=-1)
    share = jnp.sum(flatten(random * signs), axis=-1) / jnp.where(length > 0, length, 1)
    return signs, random - column(share, x) * signs
