"""Adversarially robust image classifiers in JAX: MOREL, TRADES, MART and LOAT."""
from importlib import metadata

__version__ = metadata.version("morel_jax")
