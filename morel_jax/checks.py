"""Rules that numbers and installations of users must keep, in one wording."""
import contextlib
import math
import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np

# A key of JAX holds 32 bits of its seed: a larger one, or a negative one, would be another seed without a word.
LARGEST_SEED = 2**32 - 1
# A smaller one is lost in the rounding of an image's float32: an attack with it would break nothing.
SMALLEST_RADIUS = 1e-6


def whole_number(name: str, value: Any, low: float, high: float = math.inf) -> int:
    """``value`` as an int.

    Args:
        name: of the argument or flag.
        value: a Python or NumPy integer.
        low, high: the least and the largest that it may be.

    Raises:
        ValueError: it is no integer (a bool or 2.0 is none), or out of range.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer; got {value!r}.")
    if not low <= int(value) <= high:
        rule = f"at least {low}" if high == math.inf else f"in {low} .. {high}"
        raise ValueError(f"{name} must be {rule}; got {value}.")
    return int(value)


def seed(value: Any, name: str = "seed") -> int:
    """``value`` as an int, a seed of ``jax.random.key``.

    Raises:
        ValueError: it is no integer in 0 .. 2**32 - 1.
    """
    return whole_number(name, value, 0, LARGEST_SEED)


def radius(name: str, value: Any, largest: float, why: str = "") -> float:
    """``value`` as a float in [1e-6, largest]: a radius or step, in pixel units of images in [0, 1].

    Args:
        name: of the argument or flag.
        value: a Python, NumPy or JAX number.
        largest: included.
        why: what ``largest`` is, in a few words with a comma in front.

    Raises:
        ValueError: it is no number, NaN, or out of range.
    """
    try:
        number = float("nan") if isinstance(value, (bool, str, bytes)) or np.ndim(value) else float(value)
    except (TypeError, OverflowError):
        number = float("nan")
    if not SMALLEST_RADIUS <= number <= largest:  # False for NaN too.
        raise ValueError(f"{name} must be in [{SMALLEST_RADIUS:.0e}, {largest:.4g}]{why}; got {value!r}.")
    return number


def share(name: str, value: Any) -> float:
    """``value`` as a float in [0, 1].

    Raises:
        ValueError: it is no number, NaN, or out of range.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or value < 0 or not value <= 1:
        raise ValueError(f"{name} must be in [0, 1]; got {value!r}.")
    return float(value)


def describe(value: Any) -> str:
    """Type and shape of an array, such as ``float32[8, 10]``, and of anything else its type."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else type(value).__name__


@contextlib.contextmanager
def needing_extra(extra: str, what: str) -> Iterator[None]:
    """Says in whatever import fails inside the ``with`` block which extra of this package brings it.

    Args:
        extra: its name, such as "torch".
        what: begins the message, such as "writing PyTorch's files".

    Raises:
        ModuleNotFoundError: a module is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} needs {error.name}: pip install 'morel_jax[{extra}]'.", name=error.name
                                  ) from error
