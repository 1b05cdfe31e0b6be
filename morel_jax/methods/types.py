"""Types of what a method's functions take and return."""
from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

Config = ConfigDict
HParams = Any  # `morel_jax.training.state.HParams`, whose leaves are the fields of all methods.
Labels = Int[Array, " n"]
Values = Float[Array, " n"]
Rates = Mapping[str, Mapping[str, Any]]  # {architecture: {field of ``config.optimizer``: value}}.
