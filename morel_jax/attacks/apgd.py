"""Auto-PGD: projected gradient ascent that chooses its own step size (Croce and Hein, arXiv:2003.01690)."""
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from morel_jax.attacks.draws import mean_over_draws
from morel_jax.attacks.inputs import checked_loss, misclassified
from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.keys import fold_in_name, fold_in_rows
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Counts, Images, Keys, Labels, Logits, LogitsFn, Mask, OwnLoss, Values
from morel_jax.losses.classification import (
    cross_entropy,
    difference_of_logits_ratio,
    probability_margin,
    targeted_difference_of_logits_ratio,
)

# The published constants. As fractions of the steps: the first checkpoint, by how much the distance to the next one
# shrinks, and its least. Then momentum, and the fraction of rising steps below which the step size is halved.
_FIRST, _SHRINK, _SHORTEST = 0.22, 0.03, 0.06
_MOMENTUM = 0.75
_RISING = 0.75


class Run(struct.PyTreeNode):
    """One ascent of each example from its own start.

    Attributes:
        point: where the network is evaluated next.
        before: the iterate before ``point``.
        time: evaluations of this ascent so far.
        step_size: length of the next step.
        loss: at the last point.
        best_loss, best, best_gradient: the highest loss so far, where, and the gradient there.
        window, since, rises: steps between checkpoints, since the last one, and how many of those raised the loss.
        best_loss_then, halved_then: as of the last checkpoint.
    """
    point: Images
    before: Images
    time: Counts
    step_size: Values
    loss: Values
    best_loss: Values
    best: Images
    best_gradient: Images
    window: Counts
    since: Counts
    rises: Counts
    best_loss_then: Values
    halved_then: Mask


class APGDState(AttackState):
    """
    Attributes:
        number: which ascent is under way.
        order: classes by falling logit on the clean image.
        wrong: share of the draws that are misclassified at ``x_adv``; 0 or 1 of a network that answers the same each
            time.
        run: the ascent.
    """
    number: Counts
    order: Int[Array, "n classes"]
    wrong: Values
    run: Run


State = TypeVar("State", bound=APGDState)


class AutoPGD(IterativeAttack[APGDState]):
    """What these attacks and MALT share; they differ in the loss and in the meaning of their ascents."""
    epsilon: jax.typing.ArrayLike
    num_steps: int
    norm: str
    eot: int

    def _loss(self, logits: Logits, y: Labels, state: APGDState) -> Values:
        raise NotImplementedError

    def _runs(self, num_classes: int) -> int:
        raise NotImplementedError

    @property
    def passes(self) -> int:  # type: ignore[override]
        return self.eot

    def clean_logits(self, logits_fn: LogitsFn, keys: Keys, x: Images) -> Logits:
        drawn = None if self.eot == 1 else fold_in_name(keys, "clean")
        return mean_over_draws(lambda network: network(x), logits_fn, drawn, self.eot)

    def _new_run(self, keys: Keys, x: Images, number: Counts) -> Run:
        point = norm(self.norm).random_boundary(fold_in_rows(keys, 2 * number), x, self.epsilon)
        zeros = jnp.zeros(x.shape[0], x.dtype)
        count = jnp.zeros(x.shape[0], jnp.int32)
        return Run(
            point=point, before=point, time=count, step_size=zeros + 2 * self.epsilon, loss=zeros,
            best_loss=zeros - jnp.inf, best=point, best_gradient=jnp.zeros_like(x),
            window=count + max(int(_FIRST * self.num_steps), 1), since=count, rises=count,
            best_loss_then=zeros, halved_then=zeros == 0,
        )

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> APGDState:
        number = jnp.zeros(x.shape[0], jnp.int32)
        first = begin(x, clean_logits, y)
        if self.eot > 1:  # Whether an image is misclassified is the verdict's to say, not a few draws'.
            first |= {"done": number > 0, "found": number > 0}
        return APGDState(**first, number=number, wrong=jnp.zeros(x.shape[0], x.dtype),
                         run=self._new_run(keys, x, number),
                         order=jnp.argsort(-clean_logits, axis=-1).astype(jnp.int32))

    def _evaluate(self, logits_fn: LogitsFn, keys: Keys, y: Labels, state: APGDState,
                  ) -> tuple[Images, tuple[Values, Values]]:
        """Gradient at the point, share of wrong answers and loss there, all averaged over random networks on demand."""
        def objective(point: Images, network: LogitsFn) -> tuple[Array, tuple[Values, Values]]:
            logits = network(point)
            loss = self._loss(logits, y, state)
            return loss.sum(), (misclassified(logits, y).astype(point.dtype), loss)

        drawn = None if self.eot == 1 else fold_in_rows(fold_in_rows(keys, 2 * state.number + 1), state.run.time)
        gradient = jax.grad(objective, has_aux=True)
        return mean_over_draws(lambda network: gradient(state.run.point, network), logits_fn, drawn, self.eot)

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: APGDState) -> APGDState:
        return self._climb(keys, x, state, *self._evaluate(logits_fn, keys, y, state))

    def _climb(self, keys: Keys, x: Images, state: State, gradient: Images, outputs: tuple[Values, Values]) -> State:
        """The state after the evaluation of an ascent's point."""
        here, loss = outputs
        runs = self._runs(state.order.shape[-1])
        better = (here > 0) & (here >= state.wrong)
        x_adv, wrong = select(better, (state.run.point, here), (state.x_adv, state.wrong))
        run = self._ascend(x, state.run, gradient, loss.astype(x.dtype))
        ended = state.run.time == self.num_steps
        number = state.number + ended
        more = ended & (number < runs)
        run = jax.lax.cond(jnp.any(more & (wrong < 1)), lambda: select(more, self._new_run(keys, x, number), run),
                           lambda: run)
        return state.replace(
            done=(wrong == 1) | (number == runs), found=wrong > 0.5, x_adv=x_adv, wrong=wrong,
            number=jnp.minimum(number, runs - 1), run=run,
        )

    def _ascend(self, x: Images, run: Run, gradient: Images, loss: Values) -> Run:
        """One step of the ascent, from what was found at its point."""
        started = run.time > 0
        better = loss > run.best_loss  # Minus infinity at the start.
        best_loss = jnp.where(better, loss, run.best_loss)
        best, best_gradient = select(better, (run.point, gradient), (run.best, run.best_gradient))
        rises = run.rises + (started & (loss > run.loss))
        since = run.since + started

        check = since == run.window
        halved = check & ((rises <= _RISING * run.window) | (~run.halved_then & (run.best_loss_then >= best_loss)))
        step_size = jnp.where(halved, run.step_size / 2, run.step_size)
        here, gradient = select(halved, (best, best_gradient), (run.point, gradient))
        window = jnp.where(check, jnp.maximum(run.window - max(int(_SHRINK * self.num_steps), 1),
                                              max(int(_SHORTEST * self.num_steps), 1)), run.window)

        return Run(
            point=self._next_point(x, here, run.before, gradient, step_size, started), before=here,
            time=run.time + 1, step_size=step_size, loss=loss, best_loss=best_loss, best=best,
            best_gradient=best_gradient, window=window, since=jnp.where(check, 0, since),
            rises=jnp.where(check, 0, rises),
            best_loss_then=jnp.where(check | ~started, best_loss, run.best_loss_then),
            halved_then=jnp.where(check, halved, run.halved_then),
        )

    def _next_point(self, x: Images, here: Images, before: Images, gradient: Images, step_size: Values,
                    started: Mask) -> Images:
        ball = norm(self.norm)
        rows = (-1,) + (1,) * (x.ndim - 1)
        step_size = step_size.reshape(rows)
        momentum = jnp.where(started, _MOMENTUM, 1.0).astype(x.dtype).reshape(rows)
        ahead = ball.project(here + step_size * ball.direction(gradient), x, self.epsilon)
        return ball.project(here + (ahead - here) * momentum + (here - before) * (1 - momentum), x, self.epsilon)


@struct.dataclass
class APGD(AutoPGD):
    """Untargeted Auto-PGD.

    From a random point of the ball's boundary it takes steps of 2 epsilon at first, with momentum. They are halved at
    checkpoints if fewer than three quarters of the steps raised the loss, or if the best loss has not risen since the
    last one; the ascent then continues from the best point. An example is finished as soon as it is misclassified.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        num_steps: steps of one ascent; static.
        loss: what is climbed: ``ce`` cross-entropy, ``dlr`` (Eq. 6; three classes or more), ``pm``, the probability
            margin of arXiv:2411.15210, or a function (logits, labels) -> float[n]; static.
        norm: ``linf`` or ``l2``; static.
        num_restarts: maximum number of ascents, each from its own start; static.
        eot: gradients averaged per step, for networks that answer at random; above 1 the network is called as
            ``logits_fn(x, keys)`` with keys[n]; static. The result then is the point at which most of the draws are
            misclassified, and an example is finished early only where all are.

    Raises (when called):
        ValueError: an unknown ``loss`` or ``norm``, too few classes for it, or an own loss that is not float[n].

    Reference: Croce and Hein, arXiv:2003.01690, Algorithm 1, with the constants of their code.
    """
    epsilon: jax.typing.ArrayLike
    num_steps: int = struct.field(pytree_node=False, default=100)
    loss: str | OwnLoss = struct.field(pytree_node=False, default="ce")
    norm: str = struct.field(pytree_node=False, default="linf")
    num_restarts: int = struct.field(pytree_node=False, default=1)
    eot: int = struct.field(pytree_node=False, default=1)

    def _runs(self, num_classes: int) -> int:
        del num_classes
        return self.num_restarts

    def _loss(self, logits: Logits, y: Labels, state: APGDState) -> Values:
        del state
        if callable(self.loss):
            return checked_loss(self.loss, logits, y)
        losses = {"ce": cross_entropy, "dlr": difference_of_logits_ratio, "pm": probability_margin}
        if self.loss not in losses:
            raise ValueError(f"loss must be one of {', '.join(losses)}; got {self.loss!r}.")
        return losses[self.loss](logits, y)


@struct.dataclass
class APGDTargeted(AutoPGD):
    """Auto-PGD on the targeted DLR loss, once for each of the likeliest wrong classes on the clean image.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        num_steps: steps of one ascent; static.
        num_targets: classes aimed at, in the order of their logits; at most all others; static.
        norm: ``linf`` or ``l2``; static.
        num_restarts: ascents for each target; static.
        eot: as in :class:`APGD`.

    Raises (when called):
        ValueError: an unknown ``norm``, or fewer than four classes.

    Reference: Croce and Hein, arXiv:2003.01690, section 4.
    """
    epsilon: jax.typing.ArrayLike
    num_steps: int = struct.field(pytree_node=False, default=100)
    num_targets: int = struct.field(pytree_node=False, default=9)
    norm: str = struct.field(pytree_node=False, default="linf")
    num_restarts: int = struct.field(pytree_node=False, default=1)
    eot: int = struct.field(pytree_node=False, default=1)

    def _runs(self, num_classes: int) -> int:
        return min(self.num_targets, num_classes - 1) * self.num_restarts

    def _loss(self, logits: Logits, y: Labels, state: APGDState) -> Values:
        rank = 1 + state.number // self.num_restarts
        target = jnp.take_along_axis(state.order, rank[:, None], axis=1)[:, 0]
        return targeted_difference_of_logits_ratio(logits, y, target)
