"""Judging trained networks."""
from morel_jax.evaluation.trained import load

__all__ = ["load"]
