"""Scalarisations, which combine several objectives' losses into the number that is minimised."""
import math
import numbers
from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from morel_jax.losses.classification import check_pair

Losses = Float[Array, " num_objectives"]


def conic(losses: Losses, preference: Losses | Sequence[float], reference_point: Losses | Sequence[float],
          augmentation: ArrayLike) -> Float[Array, ""]:
    """Conic scalarisation CS(k, gamma, a), as the paper prints it.

        CS = sum_i k_i (L_i - a_i) + gamma sum_i (L_i - a_i)

    The augmentation term is printed without the absolute values that give Kasimbeyli's cone its shape. Under the
    conditions, which include a_i < L_i, both are the same number, and CS is `weighted_sum` with the preference
    k + gamma, minus a constant that is 0 when a is.

    Args:
        losses, preference: L and k; may be traced.
        reference_point: a, in the units of the losses; may be traced.
        augmentation: gamma, a scalar with 0 <= gamma < k_i (see `check_conic`); may be traced.

    Returns:
        CS, in the losses' dtype, to which the other arguments are cast.

    Raises:
        ValueError: shapes do not fit (found while tracing).

    Reference: CS(k, gamma, a), Hotegni and Peitz, arXiv:2410.01697; Kasimbeyli, "A conic scalarization method in
    multi-objective optimization", J. Global Optim. 56 (2013), 279-297.
    """
    reference_point = jnp.asarray(reference_point, losses.dtype)
    check_pair("losses", losses, "reference_point", reference_point)
    augmentation = jnp.asarray(augmentation, losses.dtype)
    if augmentation.ndim:
        raise ValueError(f"augmentation must be a scalar; got shape {augmentation.shape}.")
    excess = losses - reference_point
    return weighted_sum(excess, preference) + augmentation * jnp.sum(excess)


def weighted_sum(losses: Losses, preference: Losses | Sequence[float]) -> Float[Array, ""]:
    """Weighted sum WS = sum_i k_i L_i, in the losses' dtype; both arguments may be traced.

    Raises:
        ValueError: shapes differ, or losses does not have one axis (found while tracing).

    Reference: the WS of Figure 4, Hotegni and Peitz, arXiv:2410.01697, whose formula is not printed.
    """
    if losses.ndim != 1:
        raise ValueError(f"losses must have shape [num_objectives]; got {losses.shape}.")
    preference = jnp.asarray(preference, losses.dtype)
    check_pair("losses", losses, "preference", preference)
    return jnp.sum(preference * losses)


def check_conic(preference: Sequence[float], reference_point: Sequence[float], augmentation: float) -> None:
    """Checks those conditions of conic scalarisation that do not depend on the losses, as a_i < L_i does.

    They are 0 <= gamma < k_i and 0 <= a_i for every i, all finite, and as many k as a.

    Raises:
        ValueError: a condition is broken; the message names field, rule and value.

    Reference: the conditions of CS(k, gamma, a), Hotegni and Peitz, arXiv:2410.01697.
    """
    if len(preference) == 0 or len(preference) != len(reference_point):
        raise ValueError("preference and reference_point must have the same length, at least 1; "
                         f"got {len(preference)} and {len(reference_point)}.")
    fields = {f"preference[{i}]": k for i, k in enumerate(preference)}
    fields |= {f"reference_point[{i}]": a for i, a in enumerate(reference_point)}
    fields["augmentation"] = augmentation
    for name, value in fields.items():
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number; got {value!r}.")
    if augmentation < 0:
        raise ValueError(f"augmentation must be at least 0 (0 <= gamma < k_i); got {augmentation!r}.")
    for i, k in enumerate(preference):
        if k <= augmentation:
            raise ValueError(f"preference[{i}] must be greater than augmentation (0 <= gamma < k_i); "
                             f"got {k!r} with augmentation {augmentation!r}.")
    for i, a in enumerate(reference_point):
        if a < 0:
            raise ValueError(f"reference_point[{i}] must be at least 0 (a_i >= 0); got {a!r}.")
