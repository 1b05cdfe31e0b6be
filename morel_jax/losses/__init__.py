"""Losses: arrays in, arrays out."""
from morel_jax.losses.classification import (
    cross_entropy,
    difference_of_logits_ratio,
    kl_divergence,
    margin,
    targeted_difference_of_logits_ratio,
)
from morel_jax.losses.multi_gradient import METHODS as GRADIENT_METHODS
from morel_jax.losses.multi_gradient import cagrad, mgda, nash, pcgrad
from morel_jax.losses.representation import cosine_alignment, multi_positive_contrastive
from morel_jax.losses.robust import LOAT_FIRST, LOAT_LAST, LOAT_MIDDLE, loat, loat_phase, mart, pgd_at, trades
from morel_jax.losses.scalarization import check_conic, conic, weighted_sum

__all__ = [
    "GRADIENT_METHODS", "LOAT_FIRST", "LOAT_LAST", "LOAT_MIDDLE", "cagrad", "check_conic", "conic", "cosine_alignment",
    "cross_entropy", "difference_of_logits_ratio", "kl_divergence", "loat", "loat_phase", "margin", "mart", "mgda",
    "multi_positive_contrastive", "nash", "pcgrad", "pgd_at", "targeted_difference_of_logits_ratio", "trades",
    "weighted_sum",
]
