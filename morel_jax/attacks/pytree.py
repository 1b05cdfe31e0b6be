"""Attacks as pytrees, which compiled programs take as arguments."""
import inspect
from typing import Any

import jax


def as_pytree(attack: Any) -> Any:
    """An attack that a compiled program can take: a plain function becomes a pytree without leaves, others stay."""
    return jax.tree_util.Partial(attack) if inspect.isroutine(attack) else attack
