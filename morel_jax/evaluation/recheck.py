"""The independent check: projects and classifies again what an attack returned, whatever the attack reports."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike

from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Images, Labels, LogitsFn
from morel_jax.training.validation import predicted

# Rounding of float32 in [0, 1]: an image may be outside box or ball by this. In L2, where a sum over pixels rounds
# more, the same fraction of the radius is allowed too.
_ROUNDING = 1e-6

# Why an image does not count, by number; the first that applies.
VIOLATIONS = ("", "nan", "box", "ball")


@struct.dataclass
class Rechecked:
    """
    Attributes:
        prediction: int32[n], on the projected image; -1, which is never right, where its logits are NaN or infinite.
        violation: int32[n], place in ``VIOLATIONS``; an image with one never counts as adversarial.
        distance: float[n], of the projected image, in the norm of the attack.
        broken: bool[n], misclassified without violation, and near enough.
        projected: float[n, h, w, c], the image projected into box and ball; the clean one where it was NaN.
        rounded: uint8[n, h, w, c], ``projected`` with 256 levels, moved no further from the clean image.
        rounded_broken: bool[n], whether ``rounded`` is misclassified, and the float image without violation and near
            enough.
    """
    prediction: Any
    violation: Any
    distance: Any
    broken: Any
    projected: Any
    rounded: Any
    rounded_broken: Any


def recheck(logits_fn: LogitsFn, x: Images, x_adv: Images, y: Labels, epsilon: ArrayLike,
            norm_name: str = "linf", minimal: bool = False) -> Rechecked:
    """Checks, projects and classifies images that an attack returned.

    Args:
        logits_fn: in float32, with running statistics.
        x, x_adv: clean and attacked images, float32.
        epsilon: radius of the ball; infinity where the attack has none.
        norm_name: ``linf`` or ``l2``.
        minimal: whether there is no ball, and an image is judged where it is, also beyond ``epsilon``, but breaks its
            example only within.

    Raises:
        ValueError: shapes differ, or an unknown norm.
    """
    if x.shape != x_adv.shape:
        raise ValueError(f"x and x_adv must have the same shape; got {x.shape} and {x_adv.shape}.")
    ball, within = norm(norm_name), epsilon if minimal else jnp.inf
    epsilon = jnp.inf if minimal else epsilon
    axes = tuple(range(1, x.ndim))
    finite = jnp.all(jnp.isfinite(x_adv), axis=axes)
    x_adv = jnp.where(finite[:, None, None, None], x_adv, x)
    outside_box = jnp.any((x_adv < -_ROUNDING) | (x_adv > 1 + _ROUNDING), axis=axes)
    slack = _ROUNDING if norm_name == "linf" else _ROUNDING * (1 + epsilon)
    outside_ball = ball.distance(x_adv, x) > epsilon + slack
    violation = jnp.select([~finite, outside_box, outside_ball], [1, 2, 3], 0).astype(jnp.int32)

    bounded = jnp.isfinite(epsilon)
    projected = jnp.where(bounded, ball.project(x_adv, x, jnp.where(bounded, epsilon, 1.0)), jnp.clip(x_adv, 0.0, 1.0))
    # Towards the clean image, so that no pixel leaves the ball; 0.01 keeps a whole level that float32 rounded down.
    levels = jnp.trunc((projected - x) * 255 + 0.01 * jnp.sign(projected - x))
    rounded = jnp.clip(jnp.round(x * 255) + levels, 0, 255)
    prediction = predicted(logits_fn(projected))
    rounded_prediction = predicted(logits_fn(rounded / 255))
    distance = ball.distance(projected, x)
    valid = (violation == 0) & (distance <= within)
    return Rechecked(prediction=prediction, violation=violation, distance=distance, broken=valid & (prediction != y),
                     projected=projected, rounded=rounded.astype(jnp.uint8),
                     rounded_broken=valid & (rounded_prediction != y))


recheck_jit = jax.jit(recheck, static_argnames=("norm_name", "minimal"))
