"""What a step minimises: a classification loss, alone or joined with MOREL's representation loss."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct

from morel_jax import losses


@dataclasses.dataclass(frozen=True)
class Views:
    """What the networks gave for one batch; a field that a method does not compute is None.

    Attributes:
        logits, logits_adv: float[n, classes], natural and adversarial.
        projected, projected_adv: float[n, embed_dim], L_e's outputs s and s'.
        attended, attended_adv: float[n, embed_dim], M_e's outputs t and t'.
    """
    logits: Any = None
    logits_adv: Any = None
    projected: Any = None
    projected_adv: Any = None
    attended: Any = None
    attended_adv: Any = None


def standard(views, labels, hparams):
    """Cross-entropy on natural images, float[n]."""
    return losses.cross_entropy(views.logits, labels, hparams.label_smoothing)


def pgd_at(views, labels, hparams):
    """Cross-entropy on adversarial images (Madry et al., arXiv:1706.06083), float[n]."""
    return losses.pgd_at(views.logits, views.logits_adv, labels, hparams.label_smoothing)


def trades(views, labels, hparams):
    """MOREL's Eq. 11, float[n]."""
    return losses.trades(views.logits, views.logits_adv, labels, hparams.beta, hparams.label_smoothing)


def mart(views, labels, hparams):
    """MOREL's Eq. 12, float[n]."""
    return losses.mart(views.logits, views.logits_adv, labels, hparams.beta)


def loat(views, labels, hparams, *, kind, base):
    """LOAT over MART or TRADES (Yin and Ruan, CVPR 2024), float[n]."""
    return losses.loat(views.logits, views.logits_adv, labels, hparams.loat_phase, beta=hparams.beta,
                       theta=hparams.loat_theta, gamma=hparams.loat_gamma, kind=kind, base=base)


@struct.dataclass
class MixedLabels:
    """Labels of images that are each made of two.

    Attributes:
        first, second: int[n].
        share: float[n], the first's.
    """
    first: Any
    second: Any
    share: Any


def plain(classification):
    """Objective of a method without an embedding space; labels may be :class:`MixedLabels`.

    Args:
        classification: (views, labels, hparams) -> float[n].

    Returns:
        (views, labels, hparams) -> (scalar, metrics), metrics a dict of scalars.
    """
    def objective(views, labels, hparams):
        if isinstance(labels, MixedLabels):
            of_each = (labels.share * classification(views, labels.first, hparams)
                       + (1 - labels.share) * classification(views, labels.second, hparams))
        else:
            of_each = classification(views, labels, hparams)
        loss = jnp.mean(of_each)
        return loss, {"loss": loss}

    return objective


_REDUCTIONS = {"sum": jnp.sum, "mean": jnp.mean}


def morel(classification: Callable, scalarization: str, rows: str, reduction: str):
    """MOREL over a robust classification loss: Eqs. 8 to 10, joined by CS or WS.

    Args:
        classification: (views, labels, hparams) -> float[n], the second objective L_2.
        scalarization: ``conic``, ``weighted_sum``, or one of ``losses.GRADIENT_METHODS``, which join gradients, not
            losses.
        rows: anchors of Eq. 9: ``both`` natural and adversarial rows, or ``natural`` ones only.
        reduction: ``sum`` or ``mean`` over those anchors.

    Returns:
        (views, labels, hparams) -> (scalar, metrics), metrics a dict of scalars; with a method of the third kind
        (float[2], metrics), both losses, and ``loss`` in the metrics is their sum.
    """
    def contrastive(views, labels, hparams):
        attended = views.attended
        if rows == "both":
            attended = jnp.concatenate([attended, views.attended_adv])
            labels = jnp.concatenate([labels, labels])
        return _REDUCTIONS[reduction](
            losses.multi_positive_contrastive(attended, labels, hparams.temperature))

    def objective(views, labels, hparams):
        cosine = jnp.mean(losses.cosine_alignment(views.projected, views.projected_adv))
        clustering = contrastive(views, labels, hparams)
        representation = hparams.cosine_weight * cosine + hparams.contrastive_weight * clustering
        accuracy = jnp.mean(classification(views, labels, hparams))
        both = jnp.stack([representation, accuracy])
        if scalarization == "conic":
            value = losses.conic(both, hparams.preference, hparams.reference_point, hparams.augmentation)
        elif scalarization == "weighted_sum":
            value = losses.weighted_sum(both, hparams.preference)
        else:
            value = both
        return value, {"loss": jnp.sum(value), "representation_loss": representation, "classification_loss": accuracy,
                      "cosine_loss": cosine, "contrastive_loss": clustering}

    return objective
