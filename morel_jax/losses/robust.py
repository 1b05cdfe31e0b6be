"""Robust classification losses, MOREL's L_2.

Each takes natural and adversarial logits, and labels in 0 .. c - 1, and returns one value per example; the mean over
the batch is the published loss. Logits are float32 or float64; the result has their dtype, and weights are cast to it.
"""
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from morel_jax.losses.classification import (
    Labels,
    Logits,
    Mask,
    Values,
    check_number,
    check_pair,
    cross_entropy,
    kl_divergence,
    label_mask,
    pick,
    runner_up_mask,
)

LOAT_FIRST, LOAT_MIDDLE, LOAT_LAST = 0, 1, 2


def pgd_at(logits: Logits | None, logits_adv: Logits, labels: Labels, label_smoothing: ArrayLike = 0.0) -> Values:
    """Adversarial training of Madry et al.: the cross-entropy of the adversarial outputs, in nats.

        l_i = CE(z'_i, y_i)

    Args:
        logits: natural, or None; only its shape is used, so that all robust losses are called alike.
        label_smoothing: as in `cross_entropy`; may be traced.

    Raises:
        ValueError: shapes do not fit, or labels are not integers (found while tracing).

    Reference: Eq. 1, Hotegni and Peitz, arXiv:2410.01697; Madry et al., arXiv:1706.06083.
    """
    if logits is not None:
        check_pair("logits", logits, "logits_adv", logits_adv)
    return cross_entropy(logits_adv, labels, label_smoothing)


def trades(logits: Logits, logits_adv: Logits, labels: Labels, beta: ArrayLike = 6.0,
           label_smoothing: ArrayLike = 0.0) -> Values:
    """TRADES: natural cross-entropy plus the divergence of the adversarial from the natural outputs.

        l_i = CE(z_i, y_i) + beta * KL(softmax z_i || softmax z'_i)

    Args:
        beta: weight of the robust term, 1/lambda in the paper; may be traced.
        label_smoothing: of the natural term, as in `cross_entropy`; may be traced. 0 in the published loss.

    Returns:
        Values in nats; their mean is the published loss, which divides the summed divergence by n. Finite with finite
        gradients at logits of 1e4 in size.

    Raises:
        ValueError: shapes do not fit, or labels are not integers (found while tracing); beta is known and negative or
            not finite.

    Reference: Eq. 11, Hotegni and Peitz, arXiv:2410.01697; Zhang et al., arXiv:1901.08573.
    """
    check_pair("logits", logits, "logits_adv", logits_adv)
    check_number("beta", beta)
    natural = cross_entropy(logits, labels, label_smoothing)
    return natural + jnp.asarray(beta, natural.dtype) * kl_divergence(logits, logits_adv)


def mart(logits: Logits, logits_adv: Logits, labels: Labels, beta: ArrayLike = 6.0) -> Values:
    """MART: boosted cross-entropy of the adversarial outputs plus a weighted divergence.

        l_i = CE(z'_i, y_i) - log(1.0001 - max_{j != y_i} p'_ij + 1e-12)
              + beta * (1.0000001 - p_{i y_i}) * sum_j p_ij (log p_ij - log(p'_ij + 1e-12))

    with p = softmax(z_i), p' = softmax(z'_i). No term couples examples. Gradients flow through the weight
    1.0000001 - p_y too, as in the published code.

    Args:
        beta: weight of the robust term, 1/lambda in the paper; may be traced.

    Returns:
        Values in nats; their mean is the published loss. Finite with finite gradients at logits of 1e4 in size and at
        probabilities 0 and 1.

    Raises:
        ValueError: shapes do not fit, labels are not integers, or there is one class only (found while tracing); beta
            is known and negative or not finite.

    Reference: Eq. 12, Hotegni and Peitz, arXiv:2410.01697, which prints the boosted cross-entropy on natural outputs;
    as MART's authors and MOREL's implementation do, this uses the adversarial ones. The constants are from the code of
    Wang et al., "Improving adversarial robustness requires revisiting misclassified examples", ICLR 2020.
    """
    check_pair("logits", logits, "logits_adv", logits_adv)
    check_number("beta", beta)
    own = label_mask(logits, labels)
    log_p, log_p_adv = jax.nn.log_softmax(logits), jax.nn.log_softmax(logits_adv)
    runner_up = jnp.exp(pick(log_p_adv, runner_up_mask(logits_adv, own)))
    boosted = -pick(log_p_adv, own) - jnp.log(1.0001 - runner_up + 1e-12)
    # log(p' + 1e-12) written so that no gradient passes through 1 / 1e-12.
    floored = jnp.logaddexp(log_p_adv, math.log(1e-12))
    divergence = jnp.sum(jnp.exp(log_p) * (log_p - floored), axis=-1)
    uncertainty = 1.0000001 - jnp.exp(pick(log_p, own))
    return boosted + jnp.asarray(beta, boosted.dtype) * divergence * uncertainty


def loat_phase(epoch: ArrayLike, last_phase_epoch: ArrayLike) -> Int[Array, ""]:
    """Phase of LOAT's schedule.

    Args:
        epoch: counted from 1 as in LOAT's code; may be traced.
        last_phase_epoch: first epoch of the last phase; in LOAT's code 100 of 110 with MART, 90 with TRADES; may be
            traced.

    Returns:
        LOAT_FIRST up to epoch 1, whatever last_phase_epoch is, LOAT_LAST from last_phase_epoch on, LOAT_MIDDLE between.
    """
    later = jnp.where(jnp.asarray(epoch) >= last_phase_epoch, LOAT_LAST, LOAT_MIDDLE)
    return jnp.where(jnp.asarray(epoch) <= 1, LOAT_FIRST, later).astype(jnp.int32)


def _log_complement(log_p: Logits, chosen: Mask) -> Values:
    """log(1 - p) of the chosen class, as the log of the other classes' total: finite where p rounds to 1."""
    return jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, log_p), axis=-1)


def _fluctuation_mse(log_p: Logits, own: Mask, runner_up: Mask) -> Values:
    p = jnp.exp(log_p)
    even = (1 - pick(p, own)) / (p.shape[-1] - 1)
    return jnp.sum(jnp.where(own, 0, (p - even[:, None]) ** 2), axis=-1)


def _fluctuation_kl(log_p: Logits, own: Mask, runner_up: Mask) -> Values:
    return -_log_complement(log_p, runner_up)


def _pairing_mse(log_p: Logits, log_p_adv: Logits) -> Values:
    return jnp.sum((jnp.exp(log_p_adv) - jnp.exp(log_p)) ** 2, axis=-1)


def _pairing_kl(log_p: Logits, log_p_adv: Logits) -> Values:
    top = jnp.argmax(log_p_adv, axis=-1)[:, None] == jnp.arange(log_p.shape[-1])
    natural, adversarial = pick(log_p, top), pick(log_p_adv, top)
    rise = jnp.logaddexp(_log_complement(log_p_adv, top), natural)
    fall = jnp.logaddexp(_log_complement(log_p, top), adversarial)
    # Equal probabilities take neither branch: value and gradient 0, as |.| has in automatic differentiation.
    return -jnp.where(adversarial > natural, rise, jnp.where(adversarial < natural, fall, 0))


_BASES = {"mart": mart, "trades": trades}
_KINDS = {"mse": (_fluctuation_mse, _pairing_mse), "kl": (_fluctuation_kl, _pairing_kl)}


def loat(logits: Logits, logits_adv: Logits, labels: Labels, phase: ArrayLike, beta: ArrayLike = 6.0,
         theta: ArrayLike = 1.0, gamma: ArrayLike = 0.05, kind: str = "mse", base: str = "mart",
         mask: Bool[Array, " n"] | None = None) -> Values:
    """LOAT: MART or TRADES plus Fisher-Rao-norm-based terms on the logits in the first and last epochs.

    With p = softmax(z_i), p' = softmax(z'_i), R_correct and R_wrong the means of r_i over the images whose natural
    outputs are right and wrong, and A_correct, A_wrong those of a_i, the batch loss is

        first phase:   mean(base) + theta (R_correct - R_wrong) + gamma A_wrong
        middle phase:  mean(base)
        last phase:    mean(base) + theta (R_wrong - R_correct) + gamma A_correct

        kind "mse":  r_i = sum_{j != y_i} (p_ij - (1 - p_{i y_i}) / (c - 1))^2,   a_i = sum_j (p'_ij - p_ij)^2
        kind "kl":   r_i = -log(1 - max_{j != y_i} p_ij),   a_i = -log(1 - |p'_ik - p_ik|), k = argmax_j p'_ij

    The pairing a_i compares probabilities, as LOAT's code does, although it is named after adversarial logit pairing. A
    mean over no image is 0, with gradient 0, where that code divides by zero. gamma = 0 gives its variant without
    pairing.

    Args:
        phase: LOAT_FIRST, LOAT_MIDDLE or LOAT_LAST (see `loat_phase`); may be traced. Any other value is the middle
            phase.
        beta: weight of the base's robust term; may be traced.
        theta: weight of R; may be traced. LOAT's code defaults to 1.0 and runs ResNet18 with 0.1.
        gamma: weight of the pairing; may be traced.
        kind: "mse" or "kl"; static.
        base: "mart" or "trades"; static.
        mask: false on padding; None for none. Masked rows may be anything, even NaN or a label out of range.

    Returns:
        Values whose mean over the unmasked rows is the batch loss; masked rows score 0. The group means are divided
        among their members, so a row depends on the whole batch. Finite with finite gradients at logits of 1e4 in size
        and at probabilities 0 and 1.

    Raises:
        ValueError: unknown kind or base, shapes do not fit, labels are not integers, or there is one class only (all
            found while tracing); beta, theta or gamma is known and negative or not finite.

    Reference: L_2 of MOREL(<-LOAT), Hotegni and Peitz, arXiv:2410.01697; Yin and Ruan, "Boosting adversarial training
    via Fisher-Rao norm-based regularization", CVPR 2024, in the form of its published code.
    """
    for name, value, known in (("kind", kind, _KINDS), ("base", base, _BASES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape [n, c]; got {logits.shape}.")
    check_pair("logits", logits, "logits_adv", logits_adv)
    check_number("theta", theta)
    check_number("gamma", gamma)
    if mask is None:
        mask = jnp.ones(labels.shape, bool)
    check_pair("mask", mask, "labels", labels)
    mask = mask.astype(bool)
    # Padding is blanked, not just left out of the result, as it must not reach a gradient as 0 * NaN.
    labels = jnp.where(mask, labels, 0)
    own = label_mask(logits, labels)
    logits, logits_adv = (jnp.where(mask[:, None], z, 0) for z in (logits, logits_adv))

    fluctuation, pairing = _KINDS[kind]
    log_p, log_p_adv = jax.nn.log_softmax(logits), jax.nn.log_softmax(logits_adv)
    r = fluctuation(log_p, own, runner_up_mask(logits, own))
    a = pairing(log_p, log_p_adv)
    hit = jnp.argmax(logits, axis=-1) == labels
    correct, wrong = mask & hit, mask & ~hit

    def shares(values: Values, group: Bool[Array, " n"]) -> Values:
        count, total = (jnp.sum(m, dtype=values.dtype) for m in (group, mask))
        return jnp.where(group, values, 0) * total / jnp.maximum(count, 1)

    first, last = phase == LOAT_FIRST, phase == LOAT_LAST
    sign = jnp.where(first, 1, jnp.where(last, -1, 0)).astype(r.dtype)
    paired = (first & wrong) | (last & correct)
    loss = (_BASES[base](logits, logits_adv, labels, beta)
            + jnp.asarray(theta, r.dtype) * sign * (shares(r, correct) - shares(r, wrong))
            + jnp.asarray(gamma, r.dtype) * shares(a, paired))
    return jnp.where(mask, loss, 0)
