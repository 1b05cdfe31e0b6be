"""What a program needs of a device, which need not be there: compiled, counted and measured without running it."""
from morel_jax.targets.dry_run import dry_run, dry_run_population
from morel_jax.targets.report import DryRun

__all__ = ["DryRun", "dry_run", "dry_run_population"]
