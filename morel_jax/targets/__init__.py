"""What a program needs of a device: compiled, counted and measured without running it."""
from morel_jax.targets.dry_run import DryRun, dry_run

__all__ = ["DryRun", "dry_run"]
