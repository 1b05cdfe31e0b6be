"""The independent judge: what an attack returns counts for what it is, not for what the attack says."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks.norms import norm
from morel_jax.training.validation import predicted

# An image may be outside box or ball by what float32 arithmetic on values in [0, 1] explains: this, in Linf; in L2 a
# sum over pixels rounds more, and the same share of the radius is allowed.
_ROUNDING = 1e-6

# Why an image does not count, by number; the first that applies.
VIOLATIONS = ("", "nan", "box", "ball")


@struct.dataclass
class Verdict:
    """
    Attributes:
        prediction: int32[n], on the image as judged, in box and ball; -1 where its logits are NaN or infinite, which
            is never right.
        violation: int32[n], place in ``VIOLATIONS``; an image with one never counts as adversarial.
        distance: float[n], of the image as judged, in the norm of the attack.
        broken: bool[n], misclassified without violation.
        judged: float[n, h, w, c], the image projected into box and ball; the clean one where it was NaN.
        rounded: uint8[n, h, w, c], ``judged`` with 256 levels, moved no further from the clean image.
        rounded_broken: bool[n], whether ``rounded`` is misclassified, without violation of the float image.
    """
    prediction: Any
    violation: Any
    distance: Any
    broken: Any
    judged: Any
    rounded: Any
    rounded_broken: Any


def judge(logits_fn, x, x_adv, y, epsilon, norm_name="linf"):
    """Checks, projects and classifies images that an attack returned.

    Args:
        logits_fn: images float32[n, h, w, c] -> logits; float32, with running statistics.
        x: float32[n, h, w, c], the clean images.
        x_adv: float32[n, h, w, c], what the attack made of them.
        y: int[n], labels.
        epsilon: radius of the ball; infinity where the attack has none.
        norm_name: ``linf`` or ``l2``.

    Returns:
        :class:`Verdict`.

    Raises:
        ValueError: shapes differ, or an unknown norm.
    """
    if x.shape != x_adv.shape:
        raise ValueError(f"x and x_adv must have the same shape; got {x.shape} and {x_adv.shape}.")
    ball = norm(norm_name)
    axes = tuple(range(1, x.ndim))
    finite = jnp.all(jnp.isfinite(x_adv), axis=axes)
    x_adv = jnp.where(finite[:, None, None, None], x_adv, x)
    outside_box = jnp.any((x_adv < -_ROUNDING) | (x_adv > 1 + _ROUNDING), axis=axes)
    slack = _ROUNDING if norm_name == "linf" else _ROUNDING * (1 + epsilon)
    outside_ball = ball.distance(x_adv, x) > epsilon + slack
    violation = jnp.select([~finite, outside_box, outside_ball], [1, 2, 3], 0).astype(jnp.int32)

    bounded = jnp.isfinite(epsilon)
    judged = jnp.where(bounded, ball.project(x_adv, x, jnp.where(bounded, epsilon, 1.0)), jnp.clip(x_adv, 0.0, 1.0))
    # Towards the clean image, so that no pixel leaves the ball; 0.01 keeps what float32 made of a whole level.
    levels = jnp.trunc((judged - x) * 255 + 0.01 * jnp.sign(judged - x))
    rounded = jnp.clip(jnp.round(x * 255) + levels, 0, 255)
    prediction = predicted(logits_fn(judged))
    rounded_prediction = predicted(logits_fn(rounded / 255))
    valid = violation == 0
    return Verdict(prediction=prediction, violation=violation, distance=ball.distance(judged, x),
                   broken=valid & (prediction != y), judged=judged, rounded=rounded.astype(jnp.uint8),
                   rounded_broken=valid & (rounded_prediction != y))


judge_jit = jax.jit(judge, static_argnames="norm_name")
