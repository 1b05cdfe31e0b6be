"""Measurements, run from the repository's root: ``python -m benchmarks.train_step --help``."""
