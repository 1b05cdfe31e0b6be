"""How the preference of conic scalarisation turns the update."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from morel_jax.gradients.conflict import gram, objective_gradients
from morel_jax.losses import conic

Objectives = Float[Array, " m"]


@struct.dataclass
class PreferenceInfluence:
    """What each of p preferences does to the update.

    Attributes:
        cosine: float[p], of each update direction to the reference's; 0 where one of them is zero.
        norms: float[p], L2, of CS's gradient.
        rates: float[p, m], by how much each of the m objectives changes, to first order, along a unit step in the
            update direction; negative is a gain. 0 where the direction is zero.
    """
    cosine: jax.Array
    norms: jax.Array
    rates: jax.Array


def _weights(values: Objectives, preference: Objectives, reference_point: Objectives,
             augmentation: ArrayLike) -> Objectives:
    """d CS / d L: the weights of the objectives' gradients in that of CS."""
    return jax.grad(conic)(values, preference, reference_point, augmentation)


def update_directions(objectives: Callable[[PyTree], Objectives], params: PyTree,
                      preferences: Float[Array, "p m"], reference_point: Objectives,
                      augmentation: ArrayLike) -> PyTree:
    """The directions -d CS(k, gamma, a) / d params of plain gradient descent, one per preference.

    Args:
        preferences, reference_point, augmentation: one k per row, a, and gamma; may be traced.

    Returns:
        Pytree like ``params`` with a leading axis p, not normalised. All preferences share the objectives' gradients.

    Reference: CS(k, gamma, a), Hotegni and Peitz, arXiv:2410.01697.
    """
    values, gradients = objective_gradients(objectives, params)
    weights = jax.vmap(lambda k: _weights(values, k, reference_point, augmentation))(jnp.asarray(preferences))
    return jax.tree.map(lambda leaf: -jnp.tensordot(weights, leaf, axes=1, precision=jax.lax.Precision.HIGHEST),
                        gradients)


def preference_influence(objectives: Callable[[PyTree], Objectives], params: PyTree,
                         preferences: Float[Array, "p m"], reference: Objectives,
                         reference_point: Objectives, augmentation: ArrayLike) -> PreferenceInfluence:
    """Compares the update directions of many preferences with that of a reference.

    All is computed from the m gradients' inner products; no direction is formed.

    Args:
        reference: the preference to compare with; may be traced. The others are as in :func:`update_directions`.
    """
    values, gradients = objective_gradients(objectives, params)
    products = gram(gradients)

    def weights(k: Objectives) -> Objectives:
        return _weights(values, jnp.asarray(k), reference_point, augmentation)

    def along(w: Objectives) -> Objectives:
        """The inner products of the m gradients with their combination w."""
        return jnp.sum(products * w, axis=-1)

    def length(w: Objectives) -> Float[Array, ""]:
        return jnp.sqrt(jnp.maximum(jnp.sum(w * along(w)), 0))

    def unit(w: Objectives) -> Objectives:
        size = length(w)
        return jnp.where(size == 0, 0, w / jnp.where(size == 0, 1, size))

    toward = unit(weights(reference))

    def influence(k: Objectives) -> PreferenceInfluence:
        w = weights(k)
        gains = along(unit(w))
        return PreferenceInfluence(jnp.clip(jnp.sum(toward * gains), -1, 1), length(w), -gains)

    return jax.vmap(influence)(jnp.asarray(preferences))
