"""Adversarially robust image classifiers in JAX: MOREL, TRADES, MART and LOAT.

The names of ``__all__`` are imported on first use, so that ``import morel_jax`` takes no time. One of them is also a
command's module: ``from morel_jax import evaluate`` gives the function, unless ``morel_jax.evaluate`` was imported.
"""
import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from morel_jax.determinism import avoid_wrong_sums

if TYPE_CHECKING:
    from morel_jax import attacks, data, evaluation, gradients, interop, losses, methods, models, targets, training
    from morel_jax.attacks import IterativeAttack
    from morel_jax.compilation_cache import use_compilation_cache
    from morel_jax.configuration import check, recipe
    from morel_jax.evaluation import evaluate, load
    from morel_jax.evaluation.report_card import report_card
    from morel_jax.methods import Views
    from morel_jax.training import Diverged, Interrupted
    from morel_jax.training.fit import fit, fit_population
    from morel_jax.training.state import HParams

__all__ = ["Diverged", "HParams", "Interrupted", "IterativeAttack", "Views", "attacks", "check", "data", "evaluate",
           "evaluation", "fit", "fit_population", "gradients", "interop", "load", "losses", "methods", "models",
           "recipe", "report_card", "targets", "training", "use_compilation_cache"]

# Where the names are defined that are no packages.
_HOMES = {"Diverged": "training", "HParams": "training.state", "Interrupted": "training", "IterativeAttack": "attacks",
          "Views": "methods", "check": "configuration", "evaluate": "evaluation", "fit": "training",
          "fit_population": "training", "load": "evaluation", "recipe": "configuration", "report_card": "evaluation",
          "use_compilation_cache": "compilation_cache"}

__version__ = metadata.version("morel_jax")
avoid_wrong_sums()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
