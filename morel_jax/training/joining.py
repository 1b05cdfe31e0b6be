"""The gradients of a step that has several losses."""
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from morel_jax import losses

# params -> (losses, what they give beside).
LossesOf = Callable[[PyTree], tuple[Float[Array, " m"], Any]]


def combined_gradients(losses_of: LossesOf, params: PyTree, combine: Callable) -> tuple[PyTree, Any]:
    """(one descent direction of the losses, what they give beside); one pass forwards, all backwards at once.

    The gradients meet on the classifier's weights, which every loss reaches; ``combine`` is one of
    ``losses.GRADIENT_METHODS``.
    """
    values, pull_back, aux = jax.vjp(losses_of, params, has_aux=True)
    # Like ``values``: in a population's shard_map an array of constants would not do.
    each = jnp.where(jnp.eye(len(values), dtype=bool), jnp.ones_like(values), jnp.zeros_like(values))
    (grads,) = jax.vmap(pull_back)(each)
    weights = combine(losses.gram(grads["classifier"]))
    return jax.tree.map(lambda leaf: functools.reduce(operator.add, (
        weight.astype(leaf.dtype) * row for weight, row in zip(weights, leaf, strict=True))), grads), aux


def famo_gradients(losses_of: LossesOf, params: PyTree, famo: losses.FamoState) -> tuple[PyTree, Any, Array]:
    """(gradients of the losses with FAMO's weights, what they give beside, the losses)."""
    def weighed(params: PyTree) -> tuple[Array, Any]:
        values, aux = losses_of(params)
        return losses.famo_weights(famo, values) @ values, (aux, values)

    grads, (aux, values) = jax.grad(weighed, has_aux=True)(params)
    return grads, aux, values
