"""FAB, the fast adaptive boundary attack: the nearest adversarial image, whatever the radius (arXiv:1907.02044)."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from morel_jax.attacks.hyperplane import PROJECTIONS
from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.iterative import select
from morel_jax.attacks.keys import fold_in_rows
from morel_jax.attacks.nearest import NearestAttack, NearestState, begin_nearest
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Counts, Images, Keys, Labels, Logits, LogitsFn, Mask, Values

# Keeps the distance to a boundary without a gradient finite, and two moves of zero length from becoming NaN.
_TINY, _SHORTEST = 1e-12, 1e-8
# Another class's logit minus y's, and its gradient: a boundary that a move can aim at.
Boundary = tuple[Values, Images]


class FABState(NearestState):
    """
    Attributes:
        number: which run is under way.
        order: classes by falling logit on the clean image.
        point: where the next move starts.
        moves: moves of this run so far.
    """
    number: Counts
    order: Int[Array, "n classes"]
    point: Images
    moves: Counts


class _BoundaryAttack(NearestAttack[FABState]):
    """What both attacks share; they differ in the boundary that a move aims at and in the meaning of their runs."""
    passes = 2
    epsilon: jax.typing.ArrayLike | None
    num_steps: int
    num_restarts: int
    alpha_max: jax.typing.ArrayLike
    eta: jax.typing.ArrayLike
    beta: jax.typing.ArrayLike
    thorough: bool

    @property
    def bounded(self) -> bool:
        """Whether there is an ``epsilon``."""
        return self.epsilon is not None

    def limit(self, x: Images) -> jax.typing.ArrayLike:
        """See :class:`NearestAttack`."""
        return super().limit(x) if self.epsilon is None else self.epsilon

    def _boundary(self, difference: Callable[[Labels], Boundary], num_classes: int, y: Labels,
                  state: FABState) -> Boundary:
        """The boundary to move onto; ``difference`` gives the boundary to the class that it is called with."""
        raise NotImplementedError

    def _runs(self, num_classes: int) -> int:
        raise NotImplementedError

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> FABState:
        del keys
        num_classes = clean_logits.shape[-1]
        if num_classes < 2:
            raise ValueError(f"FAB needs two classes or more; got {num_classes}.")
        if self.num_steps < 1 or self._runs(num_classes) < 1:
            raise ValueError("FAB needs at least one step and one run; got "
                             f"num_steps={self.num_steps} and {self._runs(num_classes)} runs.")
        count = jnp.zeros(x.shape[0], jnp.int32)
        return FABState(**begin_nearest(x, clean_logits, y), number=count, point=x, moves=count,
                        order=jnp.argsort(-clean_logits, axis=-1).astype(jnp.int32))

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: FABState) -> FABState:
        logits, pull_back = jax.vjp(logits_fn, state.point)
        num_classes = logits.shape[-1]

        def difference(other: Labels) -> Boundary:
            sign = jax.nn.one_hot(other, num_classes) - jax.nn.one_hot(y, num_classes)
            sign = sign.astype(logits.dtype)
            return jnp.sum(sign * logits, axis=-1).astype(x.dtype), pull_back(sign)[0]

        # A branch, so that the gradient is computed once: XLA would repeat its last operations wherever it is used.
        moved = jax.lax.cond(jnp.all(state.done), lambda *_: state.point, self._move, x, state.point,
                             *self._boundary(difference, num_classes, y, state))
        moved = jnp.where(jnp.isfinite(moved), moved, state.point)
        hit = misclassified(logits_fn(moved), y)
        state = self.keep(x, moved, hit, state)

        moves = state.moves + 1
        ended = moves == self.num_steps
        number, runs = state.number + ended, self._runs(num_classes)
        done = (number == runs) | (state.found & (not self.thorough))
        point = select(hit, x + self.beta * (moved - x), moved)
        point = self._with_starts(keys, x, ended & ~done, number, state.best_distance, point)
        return state.replace(done=done, number=jnp.minimum(number, runs - 1), point=point,
                             moves=jnp.where(ended, 0, moves))

    def _move(self, x: Images, point: Images, gap: Values, gradient: Images) -> Images:
        """From ``point`` over the linearised boundary, biased towards where the image itself would meet it."""
        flat, point, image = (a.reshape(a.shape[0], -1) for a in (gradient, point, x))
        offset = jnp.sum(flat * point, axis=-1) - gap

        def onto_plane(start: Array) -> tuple[Array, Array]:
            move = PROJECTIONS[self.norm](start, flat, offset)
            length = norm(self.norm).distance(move, jnp.zeros_like(move))
            return start + self.eta * move, jnp.maximum(length, _SHORTEST)[:, None]

        (over_point, from_point), (over_image, from_image) = onto_plane(point), onto_plane(image)
        alpha = jnp.minimum(from_point / (from_point + from_image), self.alpha_max)
        drawn = over_point * (1 - alpha) + over_image * alpha
        return jnp.clip(drawn, 0.0, 1.0).reshape(x.shape)

    def _with_starts(self, keys: Keys, x: Images, new: Mask, number: Counts, best_distance: Values,
                     point: Images) -> Images:
        """``point`` with the start of run ``number`` where ``new``: the image, or a random point in a restart."""
        point = select(new, x, point)
        if self.num_restarts == 1:
            return point
        again = new & (number % self.num_restarts > 0)

        def random() -> Images:
            radius = jnp.minimum(best_distance, self.limit(x)) / 2
            start = norm(self.norm).random_boundary(fold_in_rows(keys, number), x, radius[:, None, None, None])
            return select(again, start, point)

        return jax.lax.cond(jnp.any(again), random, lambda: point)


@struct.dataclass
class FAB(_BoundaryAttack):
    """Untargeted FAB.

    From the image, each step moves over the linearised boundary to the nearest class, and a bit towards where the image
    itself would meet it. An adversarial point is kept if it is the nearest so far, and the next step starts between it
    and the image. The image found counts if it is within ``epsilon``; the example is then finished.

    A step is one move: a gradient of every logit at its start, and a pass at its end.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1]; None: an image at any distance counts.
        num_steps: moves of one run; static.
        norm: ``linf`` or ``l2``; static.
        num_restarts: runs; all but the first start at random, at half of ``epsilon`` or of the distance of the nearest
            adversarial image so far, if that is smaller; static.
        alpha_max: the largest weight of the image's own move to the boundary, in 0 .. 1.
        eta: how far a move goes; 1 is onto the boundary.
        beta: fraction of its distance that an adversarial point keeps on the way back to the image, in 0 .. 1.
        thorough: whether to continue after something within ``epsilon`` is found, for something nearer; static.

    Raises (when called):
        ValueError: an unknown ``norm``, fewer than two classes, no steps or no runs.

    Reference: Croce and Hein, arXiv:1907.02044, with the constants and the order of events of AutoAttack's code.
    """
    epsilon: jax.typing.ArrayLike | None
    num_steps: int = struct.field(pytree_node=False, default=100)
    norm: str = struct.field(pytree_node=False, default="linf")
    num_restarts: int = struct.field(pytree_node=False, default=1)
    alpha_max: jax.typing.ArrayLike = 0.1
    eta: jax.typing.ArrayLike = 1.05
    beta: jax.typing.ArrayLike = 0.9
    thorough: bool = struct.field(pytree_node=False, default=False)

    def _runs(self, num_classes: int) -> int:
        del num_classes
        return self.num_restarts

    def _boundary(self, difference: Callable[[Labels], Boundary], num_classes: int, y: Labels,
                  state: FABState) -> Boundary:
        def nearest(carry: tuple[Values, Values, Images], offset: Array) -> tuple:
            gap, gradient = difference((y + offset) % num_classes)
            distance = jnp.abs(gap) / jnp.maximum(norm(self.norm).dual(gradient), _TINY)
            return select(distance < carry[0], (distance, gap, gradient), carry), None

        far = jnp.full(y.shape, jnp.inf, state.point.dtype)
        carry = far, jnp.zeros_like(far), jnp.zeros_like(state.point)
        (_, gap, gradient), _ = jax.lax.scan(nearest, carry, jnp.arange(1, num_classes))
        return gap, gradient


@struct.dataclass
class FABTargeted(_BoundaryAttack):
    """FAB on the boundary to one class at a time: the likeliest wrong classes on the clean image, one after another.

    A step takes one gradient, whatever the number of classes; otherwise, and in its errors, it is like :class:`FAB`.

    Attributes:
        num_targets: classes aimed at, in the order of their logits; at most all others; static.
        num_restarts: runs for each target; static.
        epsilon, num_steps, norm, alpha_max, eta, beta, thorough: as in :class:`FAB`.

    Reference: Croce and Hein, arXiv:2003.01690, on FAB-T, with the order of events of AutoAttack's code.
    """
    epsilon: jax.typing.ArrayLike | None
    num_steps: int = struct.field(pytree_node=False, default=100)
    num_targets: int = struct.field(pytree_node=False, default=9)
    norm: str = struct.field(pytree_node=False, default="linf")
    num_restarts: int = struct.field(pytree_node=False, default=1)
    alpha_max: jax.typing.ArrayLike = 0.1
    eta: jax.typing.ArrayLike = 1.05
    beta: jax.typing.ArrayLike = 0.9
    thorough: bool = struct.field(pytree_node=False, default=False)

    def _runs(self, num_classes: int) -> int:
        return min(self.num_targets, num_classes - 1) * self.num_restarts

    def _boundary(self, difference: Callable[[Labels], Boundary], num_classes: int, y: Labels,
                  state: FABState) -> Boundary:
        del num_classes, y
        rank = 1 + state.number // self.num_restarts
        return difference(jnp.take_along_axis(state.order, rank[:, None], axis=1)[:, 0])
