"""Training: state, step, objective, and the loop that runs them."""
from morel_jax.training.dry_run import DryRun, dry_run
from morel_jax.training.interruption import Interrupted
from morel_jax.training.loop import Diverged, fit
from morel_jax.training.population import fit_population

__all__ = ["Diverged", "DryRun", "Interrupted", "dry_run", "fit", "fit_population"]
