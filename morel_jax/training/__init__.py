"""Training: state, step, objective, and the loop that runs them."""
from morel_jax.training.interruption import Interrupted
from morel_jax.training.loop import Diverged, fit

__all__ = ["Diverged", "Interrupted", "fit"]
