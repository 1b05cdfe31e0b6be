"""Losses on the logits of one batch: one value per example, from which the robust losses are built.

Logits are float32 or float64; the result has their dtype. Labels are in 0 .. c - 1.
"""
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

Logits = Float[Array, "*n c"]  # n examples, along one axis or several.
Labels = Int[Array, "*n"]
Values = Float[Array, "*n"]
Mask = Bool[Array, "*n c"]


def label_mask(logits: Logits, labels: Labels) -> Mask:
    """True at each example's label.

    Raises:
        ValueError: labels.shape is not logits.shape[:-1], or labels are not integers (found while tracing).
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError("labels must have the shape of logits without its last axis; "
                         f"got labels {labels.shape}, logits {logits.shape}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers; got {labels.dtype}.")
    return labels[..., None] == jnp.arange(logits.shape[-1])


def runner_up_mask(logits: Logits, own: Mask) -> Mask:
    """True at the largest logit outside `own`, the label's mask; the first of equals.

    Raises:
        ValueError: there is one class only (found while tracing).
    """
    if logits.shape[-1] < 2:
        raise ValueError(f"logits must have at least two classes; got {logits.shape}.")
    rivals = jnp.where(own, -jnp.inf, logits)
    return jnp.argmax(rivals, axis=-1)[..., None] == jnp.arange(logits.shape[-1])


def pick(values: Logits, chosen: Mask) -> Values:
    """The one entry of each row that `chosen` marks; NaN where it marks none."""
    picked = jnp.sum(jnp.where(chosen, values, 0), axis=-1)
    return jnp.where(jnp.any(chosen, axis=-1), picked, jnp.nan)


def check_pair(name: str, array: Array, other_name: str, other: Array) -> None:
    """Raises ValueError, naming both shapes, unless the two arrays have the same one."""
    if array.shape != other.shape:
        raise ValueError(f"{name} and {other_name} must have the same shape; "
                         f"got {array.shape} and {other.shape}.")


def check_number(name: str, value: ArrayLike, least: float = 0.0, most: float = math.inf) -> None:
    """Raises ValueError unless ``value`` is finite and in [least, most], where it is known: no tracer."""
    if isinstance(value, jax.core.Tracer):
        return
    numbers = np.asarray(value, np.float64)  # Not jnp, which would not compute while a program is traced.
    if not np.all(np.isfinite(numbers) & (numbers >= least) & (numbers <= most)):
        bound = f"at least {least:g}" if most == math.inf else f"in [{least:g}, {most:g}]"
        raise ValueError(f"{name} must be finite and {bound}; got {value}.")


def cross_entropy(logits: Logits, labels: Labels, label_smoothing: ArrayLike = 0.0) -> Values:
    """Cross-entropy of softmax(logits) against the labels, smoothed on demand.

        l_i = -(1 - s) log p_{y_i} - s / c * sum_j log p_j,   p = softmax(z_i)

    Args:
        label_smoothing: s in [0, 1]; may be traced.

    Returns:
        Values in nats, at least 0; finite with finite gradients at logits of 1e4 in size. A label out of range scores
        NaN.

    Raises:
        ValueError: shapes do not fit, or labels are not integers (found while tracing); label_smoothing is known and
            not in [0, 1].

    Reference: the L_ce of Eq. 11, Hotegni and Peitz, arXiv:2410.01697. Smoothing is uniform over all c classes (Szegedy
    et al., arXiv:1512.00567).
    """
    check_number("label_smoothing", label_smoothing, most=1.0)
    own = label_mask(logits, labels)
    log_p = jax.nn.log_softmax(logits)
    smoothing = jnp.asarray(label_smoothing, log_p.dtype)
    return -(1 - smoothing) * pick(log_p, own) - smoothing * jnp.mean(log_p, axis=-1)


def margin(logits: Logits, labels: Labels) -> Values:
    """Margin by which the best wrong class leads; maximising it drives an attack as in Carlini and Wagner.

        l_i = max_{j != y_i} z_ij - z_{i y_i}

    Returns:
        Values in logit units: positive when misclassified, negative when not, 0 at a tie with the label.
        Of equal runners-up the first takes the whole gradient. A label out of range scores NaN.

    Raises:
        ValueError: shapes do not fit, labels are not integers, or there is one class only (found while tracing).

    Reference: f_6 of Carlini and Wagner, arXiv:1608.04644, without its clamp.
    """
    own = label_mask(logits, labels)
    return pick(logits, runner_up_mask(logits, own)) - pick(logits, own)


def probability_margin(logits: Logits, labels: Labels) -> Values:
    """Margin by which the best wrong class leads in probability.

        l_i = max_{j != y_i} p_ij - p_{i y_i},   p = softmax(z_i)

    Returns:
        Values in [-1, 1], positive when misclassified. Where the softmax saturates, value and gradient are flat. Ties
        and labels out of range as in :func:`margin`.

    Raises:
        ValueError: as :func:`margin`.

    Reference: the PM loss of Xie et al., arXiv:2411.15210.
    """
    return margin(jax.nn.softmax(logits), labels)


def kl_divergence(logits_p: Logits, logits_q: Logits) -> Values:
    """Kullback-Leibler divergence between two softmax distributions.

        l_i = sum_j p_ij (log p_ij - log q_ij),   p = softmax(logits_p), q = softmax(logits_q)

    Returns:
        Values in nats, at least 0 up to rounding and exactly 0 where the logits are equal; finite with
        finite gradients with respect to both arguments at logits of 1e4 in size.

    Raises:
        ValueError: shapes differ (found while tracing).

    Reference: the D_kl of Eqs. 11 and 12, Hotegni and Peitz, arXiv:2410.01697.
    """
    check_pair("logits_p", logits_p, "logits_q", logits_q)
    log_p, log_q = jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


# Keeps a ratio of equal logits finite, as the published code does.
_TINY = 1e-12


def difference_of_logits_ratio(logits: Logits, labels: Labels) -> Values:
    """DLR loss: the margin, made independent of the logits' scale and shift.

        l_i = -(z_{y_i} - max_{j != y_i} z_j) / (z_pi1 - z_pi3),   z_pi1 >= z_pi2 >= ... the logits in order

    Returns:
        Unitless values, positive when misclassified. A label out of range scores NaN.

    Raises:
        ValueError: shapes do not fit, labels are not integers, or fewer than three classes (found while tracing).

    Reference: Eq. 6 of Croce and Hein, arXiv:2003.01690; 1e-12 is added to the divisor as in their code.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"the DLR loss needs at least three classes; got logits {logits.shape}.")
    ordered = jax.lax.top_k(logits, 3)[0]
    return margin(logits, labels) / (ordered[..., 0] - ordered[..., 2] + _TINY)


def targeted_difference_of_logits_ratio(logits: Logits, labels: Labels, targets: Labels) -> Values:
    """Targeted DLR loss: the lead of a target class over the label.

        l_i = -(z_{y_i} - z_{t_i}) / (z_pi1 - (z_pi3 + z_pi4) / 2),   z_pi1 >= z_pi2 >= ... the logits in order

    Returns:
        Unitless values, positive when the target leads the label. An entry out of range scores NaN.

    Raises:
        ValueError: shapes do not fit, labels or targets are not integers, or fewer than four classes (found while
            tracing).

    Reference: Eq. 7 of Croce and Hein, arXiv:2003.01690; 1e-12 is added to the divisor as in their code.
    """
    if logits.shape[-1] < 4:
        raise ValueError(f"the targeted DLR loss needs at least four classes; got logits {logits.shape}.")
    ordered = jax.lax.top_k(logits, 4)[0]
    lead = pick(logits, label_mask(logits, targets)) - pick(logits, label_mask(logits, labels))
    return lead / (ordered[..., 0] - 0.5 * (ordered[..., 2] + ordered[..., 3]) + _TINY)
