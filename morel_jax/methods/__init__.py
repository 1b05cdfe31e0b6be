"""Training methods, one per module, and MOREL over each of those with natural and adversarial passes."""
import importlib
import pkgutil
from typing import Any

from morel_jax.methods import morel
from morel_jax.methods.method import KINDS, Method, MixedLabels, Views

__all__ = ["KINDS", "METHODS", "Method", "MixedLabels", "Views"]


def _found() -> dict[str, Method]:
    modules: Any = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    plain = [module.METHOD for module in modules if hasattr(module, "METHOD")]
    over = [morel.over(method) for method in plain if method.passes == KINDS]
    return {method.name: method for method in (*plain, *over)}


# {name in ``config.method``: Method}.
METHODS = _found()
