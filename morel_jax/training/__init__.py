"""Training: setup, step, trainer, and what they keep on disk."""
from morel_jax.training.fit import fit, fit_population
from morel_jax.training.interruption import Interrupted
from morel_jax.training.trainer import Diverged

__all__ = ["Diverged", "Interrupted", "fit", "fit_population"]
