"""Data sets as arrays: `load(name)` gives a `Dataset` of two `Split`s."""

from morel_jax.data.dataset import Dataset, Split
from morel_jax.data.sources import KNOWN, load

__all__ = ["KNOWN", "Dataset", "Split", "load"]
