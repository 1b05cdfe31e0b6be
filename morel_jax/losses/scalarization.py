"""Scalarisations, which combine several objectives' losses into the number that is minimised."""
import math
import numbers
from collections.abc import Sequence

import jax
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


def smooth_tchebycheff(losses: Losses, preference: Losses | Sequence[float], reference_point: Losses | Sequence[float],
                       smoothing: ArrayLike) -> Float[Array, ""]:
    """Smooth Tchebycheff scalarisation: the largest weighted excess, smoothed so that all objectives have a part in it.

        STCH = mu log sum_i exp(k_i (L_i - a_i) / mu)

    It is between max_i k_i (L_i - a_i) and that plus mu log m. With a small enough mu each point of a front is the
    minimum for some k, also where the front is not convex.

    Args:
        losses, preference, reference_point: L, k and a, as in :func:`conic`; may be traced.
        smoothing: mu > 0, a scalar in the units of k L; may be traced.

    Returns:
        STCH, in the losses' dtype. Its gradient weighs L_i by k_i times a softmax, finite for any mu > 0.

    Raises:
        ValueError: shapes do not fit (found while tracing).

    Reference: Lin et al., arXiv:2402.19078.
    """
    if losses.ndim != 1:
        raise ValueError(f"losses must have shape [num_objectives]; got {losses.shape}.")
    preference, reference_point = (jnp.asarray(vector, losses.dtype) for vector in (preference, reference_point))
    check_pair("losses", losses, "preference", preference)
    check_pair("losses", losses, "reference_point", reference_point)
    smoothing = jnp.asarray(smoothing, losses.dtype)
    if smoothing.ndim:
        raise ValueError(f"smoothing must be a scalar; got shape {smoothing.shape}.")
    weighted = preference * (losses - reference_point)
    largest = jax.lax.stop_gradient(jnp.max(weighted))  # Only to keep the quotient small, as mu may be.
    return smoothing * jax.nn.logsumexp((weighted - largest) / smoothing) + largest


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
