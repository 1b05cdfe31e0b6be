"""PMA, the probability margin attack: projected gradient steps that shorten along a cosine (arXiv:2411.15210)."""
import math

import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks.descent import like
from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.keys import fold_in_rows
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Counts, Images, Keys, Labels, Logits, LogitsFn, Values
from morel_jax.losses.classification import label_mask, pick, runner_up_mask


class PMAState(AttackState):
    """
    Attributes:
        number: which run is under way.
        time: evaluations of this run so far.
        point: where the network is evaluated next.
    """
    number: Counts
    time: Counts
    point: Images


@struct.dataclass
class PMA(IterativeAttack[PMAState]):
    """Ascent of the probability margin p_max - p_y, where p_max is the largest probability of a wrong class.

    Step k of K has length epsilon (1 + cos(pi k / K)). A run starts at random in the ball. Its first phase climbs one
    term of the margin alone: p_max in the first run, -p_y in the second, and so on in turn. The second phase climbs the
    margin. An example is finished as soon as it is misclassified.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        num_steps: steps of one run, K; static.
        norm: ``linf`` or ``l2``; static.
        num_restarts: maximum number of runs, each from its own start; static.
        exploring: fraction of a run's steps in its first phase, in [0, 1].

    Raises (when called):
        ValueError: an unknown ``norm``, or one class only.

    Reference: Xie et al., arXiv:2411.15210; a quarter of the steps in the first phase is our choice.
    """
    epsilon: jax.typing.ArrayLike
    num_steps: int = struct.field(pytree_node=False, default=100)
    norm: str = struct.field(pytree_node=False, default="linf")
    num_restarts: int = struct.field(pytree_node=False, default=2)
    exploring: jax.typing.ArrayLike = 0.25

    def _start_point(self, keys: Keys, x: Images, number: Counts) -> Images:
        ball = norm(self.norm)
        return ball.project(ball.random_inside(fold_in_rows(keys, number), x, self.epsilon), x, self.epsilon)

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> PMAState:
        count = jnp.zeros(x.shape[0], jnp.int32)
        return PMAState(**begin(x, clean_logits, y), number=count, time=count, point=self._start_point(keys, x, count))

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: PMAState) -> PMAState:
        exploring = state.time < self.exploring * self.num_steps

        def objective(point: Images) -> tuple[Values, Logits]:
            logits = logits_fn(point)
            own = label_mask(logits, y)
            probabilities = jax.nn.softmax(logits)
            p_y, p_max = pick(probabilities, own), pick(probabilities, runner_up_mask(logits, own))
            with_p_y = jnp.where(exploring & (state.number % 2 == 0), 0, p_y)
            return jnp.sum(jnp.where(exploring & (state.number % 2 == 1), 0, p_max) - with_p_y), logits

        gradient, logits = jax.grad(objective, has_aux=True)(state.point)
        found = misclassified(logits, y)
        ball = norm(self.norm)
        share = (state.time / max(self.num_steps, 1)).astype(x.dtype)
        length = jnp.asarray(self.epsilon * (1 + jnp.cos(math.pi * share)))
        point = ball.project(state.point + like(length, x) * ball.direction(gradient), x, self.epsilon)

        ended = state.time == self.num_steps
        number = state.number + ended
        done = found | (number == self.num_restarts)
        again = ended & ~done
        if self.num_restarts > 1:
            point = jax.lax.cond(jnp.any(again), lambda: select(again, self._start_point(keys, x, number), point),
                                 lambda: point)
        return state.replace(done=done, found=found, x_adv=select(found, state.point, x), point=point,
                             number=jnp.minimum(number, self.num_restarts - 1),
                             time=jnp.where(ended, 0, state.time + 1))
