"""Data sets as arrays: `load(name)` gives a `Dataset` of two `Split`s, `blank(name)` one without its content."""
from morel_jax.data.corruptions import write_corruptions
from morel_jax.data.dataset import Dataset, Split
from morel_jax.data.extra import load_extra
from morel_jax.data.sources import KNOWN, blank, load

__all__ = ["KNOWN", "Dataset", "Split", "blank", "load", "load_extra", "write_corruptions"]
