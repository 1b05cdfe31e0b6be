"""Losses: arrays in, arrays out."""
from collections.abc import Callable

from morel_jax.losses.classification import (
    cross_entropy,
    difference_of_logits_ratio,
    kl_divergence,
    margin,
    probability_margin,
    targeted_difference_of_logits_ratio,
)
from morel_jax.losses.famo import FamoState, famo_start, famo_update, famo_weights
from morel_jax.losses.multi_gradient import METHODS as GRADIENT_METHODS
from morel_jax.losses.multi_gradient import cagrad, gram, imtl_g, mgda, mgda_normalized, nash, pcgrad, upgrad
from morel_jax.losses.representation import cosine_alignment, multi_positive_contrastive
from morel_jax.losses.robust import LOAT_FIRST, LOAT_LAST, LOAT_MIDDLE, loat, loat_phase, mart, pgd_at, trades
from morel_jax.losses.scalarization import check_conic, conic, smooth_tchebycheff, weighted_sum

# All ways to join objectives, by the names that configs use: the first three take losses and give the number to
# minimise, FAMO takes its state and losses and gives weights, and GRADIENT_METHODS take a Gram matrix and give weights.
MULTI_OBJECTIVE: dict[str, Callable] = {
    "conic": conic, "weighted_sum": weighted_sum, "smooth_tchebycheff": smooth_tchebycheff, "famo": famo_weights,
    **GRADIENT_METHODS}

__all__ = [
    "GRADIENT_METHODS", "LOAT_FIRST", "LOAT_LAST", "LOAT_MIDDLE", "MULTI_OBJECTIVE", "FamoState", "cagrad",
    "check_conic", "conic", "cosine_alignment", "cross_entropy", "difference_of_logits_ratio", "famo_start",
    "famo_update", "famo_weights", "gram", "imtl_g", "kl_divergence", "loat", "loat_phase", "margin", "mart", "mgda",
    "mgda_normalized", "multi_positive_contrastive", "nash", "pcgrad", "pgd_at", "probability_margin",
    "smooth_tchebycheff", "targeted_difference_of_logits_ratio", "trades", "upgrad", "weighted_sum",
]
