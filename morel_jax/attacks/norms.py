"""Norms by name."""
import math
from collections.abc import Sequence
from types import ModuleType

from morel_jax.attacks import l2, linf

# Each module has `distance`, `direction`, `dual`, `project`, `project_from_box`, `random_boundary` and `random_inside`.
NORMS = {"linf": linf, "l2": l2}


def norm(name: str) -> ModuleType:
    """The module of the norm ``name``.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {name!r}.")
    return NORMS[name]


def largest_radius(name: str, shape: Sequence[int]) -> float:
    """Radius at which the ball around any image of ``shape`` (h, w, c) contains the whole box."""
    return 1.0 if name == "linf" else math.sqrt(math.prod(shape))
