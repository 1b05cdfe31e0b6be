"""Evaluating trained networks."""
from morel_jax.evaluation.protocol import evaluate
from morel_jax.evaluation.report_card import report_card
from morel_jax.evaluation.trained import load

__all__ = ["evaluate", "load", "report_card"]
