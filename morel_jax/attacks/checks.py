"""Measurements on a batch that distinguish a network which hides its gradient from one that is robust.

`morel_jax.evaluation.report_card` interprets them and gives the sources.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Keys, Labels, Logits, LogitsFn, Mask, Points, Values
from morel_jax.losses.classification import cross_entropy, margin

# AutoAttack's flag "softmax output": entries in 0 .. 1 and sums of 1, up to this.
_PROBABILITY_ROUNDING = 1e-5
# Keeps the length of zero logits from dividing by zero, as in AutoAttack's code.
_TINY = 1e-10


class Repeats(NamedTuple):
    """
    Attributes:
        difference: the largest L2 distance between the logits of one image in two passes, each scaled to length 1.
        changed: images whose predicted class is not the same in all passes.
    """
    difference: float
    changed: int


class Ascent(NamedTuple):
    """The course of one ascent; entry t describes the point after t steps.

    Attributes:
        margins: by how much the best wrong class leads.
        wrong: whether the point is misclassified.
        x_adv: the last point.
    """
    margins: Float[Array, "n num_steps+1"]
    wrong: Bool[Array, "n num_steps+1"]
    x_adv: Points


def nondeterministic(logits_fn: LogitsFn, x: Float[np.ndarray, "n ..."], repeats: int = 5) -> Repeats:
    """How far repeated passes over the same images differ; NaN logits that stay NaN do not.

    The network runs operation by operation, its own `jax.jit` switched off: when compiled, a random number that it
    draws in Python or NumPy would be drawn once and then be a constant.

    Args:
        repeats: passes, at least two.

    Raises:
        ValueError: fewer than two passes.

    Source: ``check_randomized`` of AutoAttack's code, which scales logits alike.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2; got {repeats}.")
    with jax.disable_jit():
        passes = np.stack([np.asarray(logits_fn(x), np.float64) for _ in range(repeats)])
    units = np.nan_to_num(passes / (np.linalg.norm(passes, axis=-1, keepdims=True) + _TINY))
    difference = max(np.linalg.norm(units - one, axis=-1).max() for one in units)
    changed = (passes.argmax(-1) != passes[0].argmax(-1)).any(0).sum()
    return Repeats(float(difference), int(changed))


def looks_like_probabilities(logits: Float[np.ndarray, "n classes"]) -> bool:
    """Whether all rows of ``logits`` are in [0, 1] and sum to 1, within 1e-5.

    Source: ``check_range_output`` of AutoAttack's code.
    """
    values, slack = np.asarray(logits, np.float64), _PROBABILITY_ROUNDING
    inside = (values > -slack) & (values < 1 + slack)
    return bool(inside.all() and (np.abs(values.sum(-1) - 1) < slack).all())


def gradient_norms(logits_fn: LogitsFn, x: Points, y: Labels) -> tuple[Values, Values]:
    """Sizes of the gradients that attacks climb: a saturated softmax removes the cross-entropy's and leaves the
    margin's.

    Returns:
        (ce, margin): float32, the largest absolute entry of an example's gradient (a sum of squares would underflow);
        NaN or infinite where the gradient has such an entry.
    """
    logits, pull_back = jax.vjp(lambda x: jnp.asarray(logits_fn(x), jnp.float32), x)

    def largest(loss: Callable[[Logits, Labels], Values]) -> Values:
        gradient, = pull_back(jax.grad(lambda logits: loss(logits, y).sum())(logits))
        return jnp.max(jnp.abs(gradient), axis=tuple(range(1, x.ndim)))

    return largest(cross_entropy), largest(margin)


def ascend(logits_fn: LogitsFn, keys: Keys, x: Points, y: Labels, epsilon: ArrayLike, num_steps: ArrayLike,
           norm_name: str = "linf", random_start: ArrayLike = True, longest: int | None = None) -> Ascent:
    """Projected gradient ascent on the cross-entropy that records its course.

    Steps are 2.5 epsilon / num_steps long (Madry et al., arXiv:1706.06083), so that an ascent can cross the ball; a
    single step is epsilon long, as in FGSM. An entry of the gradient that is NaN or infinite moves nothing.

    Args:
        x: images in [0, 1].
        epsilon: radius, in pixel units of images in [0, 1]; may be traced.
        num_steps: steps taken; may be traced where ``longest`` is given, so that one program serves all lengths.
        norm_name: ``linf`` or ``l2``.
        random_start: start from a random point of the ball's boundary, as Auto-PGD does, not the image; may be traced.
        longest: length of the recorded course, which fixes its shape; None: ``num_steps``.

    Returns:
        The course; entries after ``num_steps`` are zero and False.

    Raises:
        ValueError: an unknown norm.
    """
    ball, room = norm(norm_name), (num_steps if longest is None else longest) + 1
    step_size = epsilon * jnp.where(num_steps == 1, 1.0, 2.5 / jnp.maximum(num_steps, 1))

    def objective(point: Points) -> tuple[Array, tuple[Values, Mask]]:
        logits = jnp.asarray(logits_fn(point), jnp.float32)
        return cross_entropy(logits, y).sum(), (margin(logits, y), misclassified(logits, y))

    def step(time: Array, carry: tuple[Array, Array, Points]) -> tuple[Array, Array, Points]:
        margins, wrong, point = carry  # As far as known; the last step only evaluates its point.
        gradient, seen = jax.grad(objective, has_aux=True)(point)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
        moved = ball.project(point + step_size * ball.direction(gradient), x, epsilon)
        point = jnp.where(time < num_steps, moved, point)
        return margins.at[:, time].set(seen[0]), wrong.at[:, time].set(seen[1]), point

    start = jnp.where(random_start, ball.random_boundary(keys, x, epsilon), x)
    empty = jnp.zeros((x.shape[0], room), jnp.float32)
    return jax.lax.stop_gradient(Ascent(*jax.lax.fori_loop(0, num_steps + 1, step, (empty, empty > 0, start))))


def noise_breaks(logits_fn: LogitsFn, keys: Keys, x: Points, y: Labels, epsilon: ArrayLike, draws: ArrayLike,
                 norm_name: str = "linf") -> Mask:
    """Whether each example is misclassified for at least one of ``draws`` of noise that reaches the ball's boundary.

    Every other draw is noise of all sizes, scaled to length epsilon. The others have one size in all pixels and random
    signs, which in Linf is a corner of the ball. Arguments and errors as in :func:`ascend`; ``draws`` may be traced.
    """
    ball = norm(norm_name)

    def draw(number: Array, broken: Mask) -> Mask:
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        signs = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(fresh)
        corner = ball.project(x + epsilon * ball.direction(signs), x, epsilon)
        point = jnp.where(number % 2 == 0, ball.random_boundary(fresh, x, epsilon), corner)
        return broken | misclassified(logits_fn(point), y)

    return jax.lax.fori_loop(0, draws, draw, jnp.zeros(x.shape[0], bool))
