"""Norms by name."""
from types import ModuleType

from morel_jax.attacks import l2, linf

# Each module has `distance`, `direction`, `dual`, `project` and `random_boundary`.
NORMS = {"linf": linf, "l2": l2}


def norm(name: str) -> ModuleType:
    """The module of the norm ``name``.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {name!r}.")
    return NORMS[name]
