"""Training: state, step, objective, and the loop that runs them."""
from morel_jax.training.loop import Diverged, fit
from morel_jax.training.interruption import Interrupted

__all__ = ["Diverged", "Interrupted", "fit"]
