"""Checks and preparation of every attack's call: images, labels, its own numbers, and what a network returns.

Values are checked where they are concrete; of tracers, inside a compiled program, only shapes and types are.
"""
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from morel_jax.attacks.types import Images, Labels, Logits, LogitsFn, Mask, OwnLoss, Points, Values

Attack = TypeVar("Attack", bound=PyTree)


def _concrete(array: Any) -> bool:
    """Whether the values of ``array`` can be read here."""
    return not isinstance(array, jax.core.Tracer) and getattr(array, "is_fully_addressable", True)


def check_images(x: Points | np.ndarray, name: str = "x", allow_uint8: bool = False) -> None:
    """Raises ValueError unless ``x`` is float[n, ...] in [0, 1], as far as values are known, or uint8 if allowed."""
    if allow_uint8 and x.dtype == np.uint8:
        return
    if not jnp.issubdtype(x.dtype, jnp.floating):
        hint = "; divide uint8 images by 255" if x.dtype == np.uint8 else ""
        raise ValueError(f"{name} must be {'uint8 or ' if allow_uint8 else ''}floats in [0, 1]; got {x.dtype}{hint}.")
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape [n, ...], one image per row; got {x.shape}.")
    if x.size and _concrete(x):
        values = np.asarray(x)  # Not jnp, which would not compute while a program is traced.
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # Of NaN neither holds.
            raise ValueError(f"{name} must be in [0, 1]; got values from {low:.9g} to {high:.9g}.")


def check_labels(y: Labels | np.ndarray, count: int, num_classes: int | None = None, name: str = "y") -> None:
    """Raises ValueError unless ``y`` is int[count], in 0 .. ``num_classes`` - 1 as far as both are known."""
    if y.shape != (count,):
        hint = "; of one-hot labels take the argmax" if y.ndim == 2 and y.shape[1] > 1 else ""
        raise ValueError(f"{name} must have shape [{count}], a class for each image; got {y.shape}{hint}.")
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers; got {y.dtype}.")
    if num_classes is not None and y.size and _concrete(y):
        low, high = np.asarray(y).min(), np.asarray(y).max()
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name} must be in 0 .. {num_classes - 1}, the network's classes; "
                             f"got values from {low} to {high}.")


def check_logits(logits: Any, count: int) -> None:
    """Raises ValueError unless ``logits``, which a network returned, is float[count, classes]."""
    if not hasattr(logits, "dtype"):
        hint = "; return its logits alone" if hasattr(logits, "logits") else ""
        raise ValueError(f"logits_fn must return one array of logits; got {type(logits).__name__}{hint}.")
    if logits.ndim != 2 or logits.shape[0] != count or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits_fn must return floats of shape [{count}, classes]; "
                         f"got {logits.dtype}{list(logits.shape)}.")


def check_finite(logits: Float[Array | np.ndarray, "n classes"], name: str = "logits_fn",
                 index: np.ndarray | None = None) -> None:
    """Raises ValueError if logits on clean images are known and not all finite, which makes attacks meaningless.

    The message names the network and the first such image, by its entry in ``index`` if that is given.
    """
    if _concrete(logits):
        bad = np.flatnonzero(~np.all(np.isfinite(np.asarray(logits, np.float64)), axis=-1))
        if len(bad):
            raise ValueError(f"{name} must give finite logits on the clean images; got NaN or infinity on {len(bad)} "
                             f"of {len(logits)} images, the first of them image "
                             f"{bad[0] if index is None else index[bad[0]]}.")


def checked_loss(loss: OwnLoss, logits: Logits, y: Labels) -> Values:
    """``loss(logits, y)`` of a caller's own loss; ValueError unless it is float[n]."""
    values = loss(logits, y)
    if not hasattr(values, "dtype") or values.shape != y.shape or not jnp.issubdtype(values.dtype, jnp.floating):
        got = f"{values.dtype}{list(values.shape)}" if hasattr(values, "dtype") else type(values).__name__
        raise ValueError(f"loss must return floats of shape [{len(y)}], one value per example; got {got}.")
    return values


def misclassified(logits: Logits, y: Labels) -> Mask:
    """Whether a wrong class leads; False where a logit is NaN or infinite, as the argmax is then meaningless."""
    return (jnp.argmax(logits, axis=-1) != y) & jnp.all(jnp.isfinite(logits), axis=-1)


_RADIUS = "a finite number of at least 0", lambda value: math.isfinite(value) and value >= 0
_POSITIVE = "a finite number above 0", lambda value: math.isfinite(value) and value > 0
_FINITE = "a finite number", math.isfinite
_SHARE = "in [0, 1]", lambda value: 0 <= value <= 1
# Rules of the attacks' numbers, by field.
_RULES = {
    "epsilon": _RADIUS, "step_size": _POSITIVE, "confidence": _FINITE, "learning_rate": _POSITIVE,
    "decrease_factor": ("in (0, 1)", lambda value: 0 < value < 1), "initial_const": _POSITIVE, "largest_const": _RADIUS,
    "const_factor": _FINITE, "alpha_max": _SHARE, "eta": _POSITIVE, "beta": _SHARE,
    "p_init": ("in (0, 1]", lambda value: 0 < value <= 1), "gamma": ("in (0, 1)", lambda value: 0 < value < 1),
    "first_radius": _POSITIVE, "exploring": _SHARE,
}
# The least value of each count; counts are static.
_LEAST = {"num_steps": 0, "num_restarts": 1, "num_targets": 1, "eot": 1, "num_queries": 1, "max_iter": 0,
          "num_searches": 1, "num_candidates": 1, "initial_probes": 1, "fewest_queries": 1, "guard_steps": 0}


def check_fields(attack: Any) -> None:
    """Raises ValueError if a known number of ``attack`` breaks its rule; the message names field, rule and value.

    A radius in Linf is at most 1, the width of the box of images. Only in a ball of radius 0 may a step have length 0.
    """
    linf = getattr(attack, "norm", "linf") == "linf"
    for field in fields(attack):
        value = getattr(attack, field.name)
        if field.name in _LEAST:
            if not isinstance(value, int | np.integer):
                raise ValueError(f"{field.name} must be an integer; got {value!r}.")
            if value < _LEAST[field.name]:
                raise ValueError(f"{field.name} must be at least {_LEAST[field.name]}; got {value}.")
        elif field.name in _RULES and value is not None and _concrete(value):
            rule, holds = _RULES[field.name]
            number = np.asarray(value)
            if number.ndim:
                raise ValueError(f"{field.name} must be one number; got shape {number.shape}.")
            epsilon = getattr(attack, "epsilon", None)
            still = field.name == "step_size" and number == 0 and _concrete(epsilon) and np.asarray(epsilon) == 0
            if not still and not (jnp.issubdtype(number.dtype, np.number) and holds(float(number))):
                raise ValueError(f"{field.name} must be {rule}; got {value}.")
            if field.name == "epsilon" and linf and float(number) > 1:
                raise ValueError(f"epsilon must be at most 1 in Linf, in pixel units of images in [0, 1]; got {value}.")


def prepare(attack: Attack, logits_fn: LogitsFn, x: Images, y: Labels,
            ) -> tuple[Attack, LogitsFn, Images, Labels, Callable[[Images], Images]]:
    """Checks an attack's call, and makes the attack compute in float32 at least.

    Half-precision images become float32 for the attack. The network sees its points rounded towards ``x`` in the
    images' own type, so the image that was judged is the one returned, in the ball and in the box.

    Returns:
        (attack, logits_fn, x, y, finish): the same as arrays in the type of computation; and a function that converts a
        found image to the type of ``x``.

    Raises:
        ValueError: an argument that makes no sense, in one line.
    """
    check_fields(attack)
    images, labels = (array if hasattr(array, "dtype") else np.asarray(array) for array in (x, y))
    check_images(images)
    check_labels(labels, len(images))
    x, y = jnp.asarray(images), jnp.asarray(labels)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    half = wide != x.dtype

    def finish(point: Images) -> Images:
        return _towards(point, x) if half else point

    def logits_of(point: Images, *keys: Any) -> Logits:
        seen = point
        if half:  # Rounding has no gradient; this gives the point the gradient at the rounded one.
            seen = point.astype(x.dtype)
            seen = seen + jax.lax.stop_gradient(finish(jax.lax.stop_gradient(point)) - seen)
        logits = logits_fn(seen, *keys)
        check_logits(logits, len(point))
        check_labels(labels, len(point), logits.shape[-1])
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def like_images(value: Any) -> Any:
        typed = hasattr(value, "astype") and jnp.result_type(value) != wide
        return value.astype(wide) if typed else value

    return jax.tree.map(like_images, attack), logits_of, x.astype(wide), y, finish


def _towards(point: Images, x: Images) -> Images:
    """``point`` in the type of ``x``, each pixel rounded towards its ``x``."""
    near = point.astype(x.dtype)
    beyond = jnp.abs(near.astype(point.dtype) - x) > jnp.abs(point - x)
    return jnp.where(beyond, jnp.nextafter(near, x), near)
