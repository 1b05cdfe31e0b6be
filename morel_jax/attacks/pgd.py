"""Projected gradient descent in the Linf or L2 ball."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from morel_jax.attacks.draws import draw_keys, mean_over_draws
from morel_jax.attacks.inputs import checked_loss, misclassified, prepare
from morel_jax.attacks.iterative import select
from morel_jax.attacks.keys import example_keys, fold_in_rows
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.attacks.starts import start_point
from morel_jax.attacks.types import Images, KeyOrKeys, Keys, Labels, Logits, LogitsFn, Mask, OwnLoss, Values
from morel_jax.losses.classification import cross_entropy, difference_of_logits_ratio, kl_divergence, margin

# A loss of logits; and a function that makes one for a batch, from the network, images and labels.
Loss = Callable[[Logits], Values]
LossOfBatch = Callable[[LogitsFn, Images, Labels], Loss]


def _from_clean(distance: Callable[[Logits, Logits], Values]) -> LossOfBatch:
    """A loss that compares with the clean outputs, which it computes once."""
    def loss(logits_fn: LogitsFn, x: Images, y: Labels) -> Loss:
        del y
        clean_logits = jax.lax.stop_gradient(logits_fn(x))
        return lambda logits: distance(clean_logits, logits)

    return loss


def _squared_error(clean_logits: Logits, logits: Logits) -> Values:
    return jnp.sum((jax.nn.softmax(logits) - jax.nn.softmax(clean_logits)) ** 2, axis=-1)


# Losses that compare with the clean outputs. They need no labels, and have no gradient at the clean image.
FROM_CLEAN = {"kl": _from_clean(kl_divergence), "squared_error": _from_clean(_squared_error)}
# Each gives the function of the logits to climb, one value per example.
LOSSES: dict[str, LossOfBatch] = {
    "ce": lambda logits_fn, x, y: lambda logits: cross_entropy(logits, y),
    "dlr": lambda logits_fn, x, y: lambda logits: difference_of_logits_ratio(logits, y),
    "margin": lambda logits_fn, x, y: lambda logits: margin(logits, y),
    **FROM_CLEAN,
}


def _of_step(keys: Keys | None, number: int) -> Keys | None:
    """The keys of a network's draws in one step; None as it is."""
    return None if keys is None else fold_in_rows(keys, jnp.broadcast_to(number, keys.shape))


@struct.dataclass
class PGD:
    """Projected gradient ascent (Madry et al., arXiv:1706.06083; MOREL's Eqs. 2 and 3).

    In L2 a step is ``step_size`` long, along the gradient, and is then clipped into the box and scaled into the ball.
    With a ``normal`` start, loss ``kl`` and ``step_size=2 * epsilon / num_steps`` that is TRADES's own attack in L2
    (arXiv:1901.08573, its code), but for an example without a gradient, which stays where it is.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1], such as 8 / 255.
        step_size: size of one step, same units.
        num_steps: steps taken; static, as it fixes the compiled loop.
        start: ``uniform`` in the ball, ``normal`` (x + 0.001 N(0, 1)) or ``clean``; static.
        loss: what is climbed: ``ce`` cross-entropy, ``dlr`` difference of logits ratio (three classes or more), ``kl``
            KL(clean || adversarial) as in TRADES, ``squared_error`` ``|softmax(adversarial) - softmax(clean)|^2`` as in
            SCORE, ``margin`` (largest other logit minus the label's), or a function (logits, labels) -> float[n];
            static.
        num_restarts: climbs, each from its own random start, the first that of a single run; static. The result is the
            end of the first climb that ends misclassified, or else of the one that ends with the highest loss.
        norm: of the ball, ``linf`` or ``l2``; static.
        eot: gradients averaged per step, for networks that answer at random; above 1 the network is called as
            ``logits_fn(x, keys)`` with keys[n]; static. A climb then ends misclassified if most of its last draws do.
    """
    epsilon: jax.typing.ArrayLike
    step_size: jax.typing.ArrayLike
    num_steps: int = struct.field(pytree_node=False, default=10)
    start: str = struct.field(pytree_node=False, default="uniform")
    loss: str | OwnLoss = struct.field(pytree_node=False, default="ce")
    num_restarts: int = struct.field(pytree_node=False, default=1)
    norm: str = struct.field(pytree_node=False, default="linf")
    eot: int = struct.field(pytree_node=False, default=1)

    def __call__(self, logits_fn: LogitsFn, key: KeyOrKeys, x: Images, y: Labels) -> Images:
        """Images in the ball and in [0, 1], through which no gradient flows; ``key`` is one key, or one per example.

        Raises:
            ValueError: unknown ``start``, ``loss`` or ``norm``; ``kl`` or ``squared_error`` from a ``clean`` start,
                where the gradient is zero, or with ``eot``; an own loss that is not float[n]; too few classes for the
                loss; no restarts, or several from a ``clean`` start, which would all be the same; images, labels,
                logits or numbers that make no sense, where their values are known.
        """
        if not callable(self.loss) and self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {sorted(LOSSES)}; got {self.loss!r}.")
        if self.loss in FROM_CLEAN and self.start == "clean":
            raise ValueError(f"loss {self.loss!r} needs a random start: its gradient is zero at the clean image; "
                             "got start 'clean'.")
        if self.loss in FROM_CLEAN and self.eot > 1:
            raise ValueError(f"eot must be 1 for loss {self.loss!r}, which compares with one clean answer; "
                             f"got {self.eot}.")
        if self.num_restarts > 1 and self.start == "clean":
            raise ValueError("num_restarts must be 1 for start 'clean', from where all climbs are the same; "
                             f"got {self.num_restarts}.")
        attack, logits_fn, x, y, finish = prepare(self, logits_fn, x, y)
        loss = self._loss(logits_fn, x, y)
        if self.num_restarts == 1:
            return jax.lax.stop_gradient(finish(attack._climb(logits_fn, loss, key, x)))
        found = attack._best_climb(logits_fn, loss, example_keys(key, x.shape[0]), x, y)
        return jax.lax.stop_gradient(finish(found))

    def _loss(self, logits_fn: LogitsFn, x: Images, y: Labels) -> Loss:
        own = self.loss
        return (lambda logits: checked_loss(own, logits, y)) if callable(own) else LOSSES[own](logits_fn, x, y)

    def _climb(self, logits_fn: LogitsFn, loss: Loss, key: KeyOrKeys, x: Images) -> Images:
        keys, geometry = draw_keys(self.eot, key, x.shape[0]), known_norm(self.norm)

        def gradient(x_adv: Images, number: int) -> Images:
            # A sum, as a mean would divide each gradient by the batch size.
            return mean_over_draws(lambda network: jax.grad(lambda x_adv: loss(network(x_adv)).sum())(x_adv),
                                   logits_fn, _of_step(keys, number), self.eot)

        def step(number: int, x_adv: Images) -> Images:
            moved = x_adv + self.step_size * geometry.direction(gradient(x_adv, number))
            return geometry.project_from_box(moved, x, self.epsilon)

        start = start_point(self.start, key, x, self.epsilon, self.norm)
        return jax.lax.fori_loop(0, self.num_steps, step, start)

    def _best_climb(self, logits_fn: LogitsFn, loss: Loss, keys: Keys, x: Images, y: Labels) -> Images:
        def outcome(logits: Logits) -> tuple[Values, Values]:
            return loss(logits), misclassified(logits, y).astype(x.dtype)

        def judged(keys: Keys) -> tuple[Images, Values, Mask]:
            x_adv = self._climb(logits_fn, loss, keys, x)
            drawn = _of_step(draw_keys(self.eot, keys, x.shape[0]), self.num_steps)
            reached, wrong = mean_over_draws(lambda network: outcome(network(x_adv)), logits_fn, drawn, self.eot)
            return x_adv, jnp.where(jnp.isnan(reached), -jnp.inf, reached), wrong > 0.5

        def again(carry: tuple) -> tuple:
            number, best = carry
            _, best_loss, broken = best
            new = judged(fold_in_rows(keys, jnp.full(keys.shape, number)))
            _, new_loss, newly_broken = new
            return number + 1, select(~broken & (newly_broken | (new_loss > best_loss)), new, best)

        def goes_on(carry: tuple) -> Array:
            number, (_, _, broken) = carry
            return (number < self.num_restarts) & ~jnp.all(broken)

        return jax.lax.while_loop(goes_on, again, (1, judged(keys)))[1][0]
