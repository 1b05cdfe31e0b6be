"""Adversarially robust image classifiers in JAX: MOREL, TRADES, MART and LOAT."""
from importlib import metadata

from morel_jax.determinism import avoid_wrong_sums

__version__ = metadata.version("morel_jax")
avoid_wrong_sums()
