"""Evaluating trained networks."""
from morel_jax.evaluation.corruptions import evaluate_corruptions
from morel_jax.evaluation.protocol import evaluate
from morel_jax.evaluation.pseudo_labels import write_pseudo_labels
from morel_jax.evaluation.randomised import with_noise
from morel_jax.evaluation.report_card import report_card
from morel_jax.evaluation.summary import distance_curve
from morel_jax.evaluation.trained import load
from morel_jax.evaluation.union import evaluate_union

__all__ = ["distance_curve", "evaluate", "evaluate_corruptions", "evaluate_union", "load", "report_card",
           "with_noise", "write_pseudo_labels"]
