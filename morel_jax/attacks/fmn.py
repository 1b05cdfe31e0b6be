"""DDN and FMN: gradient steps, back into a ball that shrinks where the point is adversarial and grows where it is not.

Both follow the decision boundary in this way to the nearest adversarial image, with one gradient per step.
"""
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from morel_jax.attacks import l2
from morel_jax.attacks.descent import like
from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.iterative import select
from morel_jax.attacks.nearest import NearestAttack, NearestState, begin_nearest
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Images, Keys, Labels, Logits, LogitsFn, Mask, Values
from morel_jax.losses.classification import cross_entropy, margin

# The published last values: a step's length as a fraction of the first, and gamma.
_LAST_STEP, _LAST_GAMMA = 0.01, 0.001
# Keeps the distance to a boundary without a gradient finite.
_TINY = 1e-12


class AdaptiveState(NearestState):
    """
    Attributes:
        order: classes by falling logit on the clean image.
        point: where the network is evaluated next.
        radius: of the ball that the point was moved into.
        reached: whether this run has met an adversarial point.
    """
    order: Int[Array, "n classes"]
    point: Images
    radius: Values
    reached: Mask


class _AdaptiveRadius(NearestAttack[AdaptiveState]):
    """What the attacks share; they differ in the loss and in what they do with the ball."""
    num_steps: int
    step_size: jax.typing.ArrayLike
    gamma: jax.typing.ArrayLike
    first_radius: jax.typing.ArrayLike = 0.0

    def _runs(self, num_classes: int) -> int:
        del num_classes
        return 1

    def _loss(self, logits: Logits, y: Labels, target: Labels) -> Values:
        """What a step raises; ``target`` is the class of this run: of the first, the likeliest wrong one."""
        raise NotImplementedError

    def _radius(self, hit: Mask, gap: Values, gamma: Array, state: AdaptiveState) -> Values:
        """The next radius; ``gap`` is the distance of a right point's linearised boundary from the image, ``gamma``
        this step's."""
        raise NotImplementedError

    def _place(self, moved: Images, x: Images, radius: Values) -> Images:
        raise NotImplementedError

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> AdaptiveState:
        del keys
        name, num_classes = type(self).__name__, clean_logits.shape[-1]
        if num_classes < 2:
            raise ValueError(f"{name} needs two classes or more; got {num_classes}.")
        if self.num_steps < 1:
            raise ValueError(f"{name} needs at least one step; got num_steps={self.num_steps}.")
        fields = begin_nearest(x, clean_logits, y)
        return AdaptiveState(**fields, order=jnp.argsort(-clean_logits, axis=-1).astype(jnp.int32), point=x,
                             radius=jnp.full(x.shape[0], self.first_radius, x.dtype),
                             reached=jnp.zeros_like(fields["done"]))

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: AdaptiveState) -> AdaptiveState:
        del keys
        turn, runs = state.steps % self.num_steps, self._runs(state.order.shape[-1])
        rank = jnp.minimum(1 + state.steps // self.num_steps, runs)
        target = jnp.take_along_axis(state.order, rank[:, None], axis=1)[:, 0]

        def objective(point: Images) -> tuple[Array, tuple[Values, Mask]]:
            logits = logits_fn(point)
            loss = self._loss(logits, y, target)
            return loss.sum(), (loss, misclassified(logits, y))

        gradient, (loss, hit) = jax.grad(objective, has_aux=True)(state.point)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
        ball, point = norm(self.norm), state.point
        state = self.keep(x, point, hit, state)
        share = (turn / self.num_steps).astype(x.dtype)
        gap = ball.distance(point, x) + jnp.abs(loss) / jnp.maximum(ball.dual(gradient), _TINY)
        radius = self._radius(hit, gap.astype(x.dtype), _annealed(self.gamma, _LAST_GAMMA, share), state)
        # Not beyond the farthest corner of the box; of NaN nothing is left.
        radius = jnp.fmin(radius, ball.distance(jnp.where(x < 0.5, 1, 0), x))
        length = _annealed(self.step_size, _LAST_STEP * self.step_size, share)
        # The squares of a saturated network's gradient would be zero.
        largest = like(jnp.max(jnp.abs(gradient), axis=tuple(range(1, x.ndim))), x)
        direction = l2.direction(gradient / jnp.where(largest > 0, largest, 1))
        moved = self._place(point + like(length, x) * direction, x, radius)
        ended = turn + 1 == self.num_steps
        return state.replace(done=state.steps + 1 == self.num_steps * runs, point=select(ended, x, moved),
                             radius=jnp.where(ended, jnp.asarray(self.first_radius, x.dtype), radius),
                             reached=(state.reached | hit) & ~ended)


def _annealed(first: Any, last: Any, share: Values) -> Array:
    """From ``first`` to ``last`` along half a cosine."""
    return last + (first - last) * (1 + jnp.cos(math.pi * share)) / 2


@struct.dataclass
class DDN(_AdaptiveRadius):
    """Decoupled direction and norm: the nearest adversarial image in L2.

    A step along the gradient of the cross-entropy; then the perturbation gets the length ``radius``, which is
    multiplied by 1 - gamma where the point before was adversarial and by 1 + gamma elsewhere.

    Attributes:
        num_steps: steps, each of one gradient; static.
        step_size: length of the first step in L2; it falls along half a cosine to a hundredth of that.
        gamma: by which fraction the radius changes, in (0, 1).
        first_radius: positive, in units of images in [0, 1].

    Raises (when called):
        ValueError: no steps, or fewer than two classes.

    Reference: Rony et al., arXiv:1811.09600, algorithm 1, without the rounding to 256 levels.
    """
    num_steps: int = struct.field(pytree_node=False, default=100)
    step_size: jax.typing.ArrayLike = 1.0
    gamma: jax.typing.ArrayLike = 0.05
    first_radius: jax.typing.ArrayLike = 1.0
    norm = "l2"

    def _loss(self, logits: Logits, y: Labels, target: Labels) -> Values:
        del target
        return cross_entropy(logits, y)

    def _radius(self, hit: Mask, gap: Values, gamma: Array, state: AdaptiveState) -> Values:
        del gap, gamma  # Here gamma stays as it is.
        return state.radius * jnp.where(hit, 1 - self.gamma, 1 + self.gamma)

    def _place(self, moved: Images, x: Images, radius: Values) -> Images:
        return jnp.clip(x + like(radius, x) * l2.direction(moved - x), 0.0, 1.0)


class _FMN(_AdaptiveRadius):
    """What both attacks share; they differ in the loss alone."""

    def _radius(self, hit: Mask, gap: Values, gamma: Array, state: AdaptiveState) -> Values:
        # The linearised boundary alone would not do: the box may cut the way there short, again and again.
        outside = jnp.maximum(state.radius * (1 + gamma), jnp.where(state.reached, 0, gap))
        return jnp.where(hit, jnp.minimum(state.radius * (1 - gamma), state.best_distance), outside)

    def _place(self, moved: Images, x: Images, radius: Values) -> Images:
        return norm(self.norm).project(moved, x, like(radius, x))


@struct.dataclass
class FMN(_FMN):
    """Fast minimum norm: the nearest adversarial image in Linf or L2.

    A step along the gradient of the margin; then the point is projected into the ball of radius ``radius``. This is
    multiplied by 1 - gamma where the point before was adversarial, and is at most the distance of the nearest so far;
    elsewhere by 1 + gamma. Until an adversarial point is known, it is at least the distance of the linearised boundary
    from the image. (The published rule does not let it grow then; where the box cuts perturbations short, it may never
    reach the boundary.)

    Attributes:
        num_steps: steps, each of one gradient; static.
        norm: ``linf`` or ``l2``; static.
        step_size: length of the first step, in L2 whatever the norm; it falls along half a cosine to a hundredth of
            that.
        gamma: by which fraction the radius changes first, in (0, 1); it falls along half a cosine to 0.001.

    Raises (when called):
        ValueError: an unknown ``norm``, no steps, or fewer than two classes.

    Reference: Pintor et al., arXiv:2102.12827, algorithm 1, from the image itself.
    """
    num_steps: int = struct.field(pytree_node=False, default=100)
    norm: str = struct.field(pytree_node=False, default="linf")
    step_size: jax.typing.ArrayLike = 1.0
    gamma: jax.typing.ArrayLike = 0.05

    def _loss(self, logits: Logits, y: Labels, target: Labels) -> Values:
        del target
        return margin(logits, y)


@struct.dataclass
class FMNTargeted(_FMN):
    """FMN towards one class at a time: the likeliest wrong classes on the clean image, one after another.

    A step raises that class's logit against the label's; a point counts whichever class it is taken for.

    Attributes:
        num_steps: steps for each target; static.
        num_targets: classes aimed at, in the order of their logits; at most all others; static.
        norm, step_size, gamma: as in :class:`FMN`, which also has the errors and the reference.
    """
    num_steps: int = struct.field(pytree_node=False, default=100)
    num_targets: int = struct.field(pytree_node=False, default=9)
    norm: str = struct.field(pytree_node=False, default="linf")
    step_size: jax.typing.ArrayLike = 1.0
    gamma: jax.typing.ArrayLike = 0.05

    def _runs(self, num_classes: int) -> int:
        return min(self.num_targets, num_classes - 1)

    def _loss(self, logits: Logits, y: Labels, target: Labels) -> Values:
        own, other = (jnp.take_along_axis(logits, one[:, None], axis=1)[:, 0] for one in (y, target))
        return other - own
