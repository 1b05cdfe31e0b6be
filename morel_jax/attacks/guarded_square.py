"""Square Attack at full length only where gradients fall behind it."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks.norms import norm
from morel_jax.attacks.square import Square, SquareState
from morel_jax.attacks.types import Images, Keys, Labels, LogitsFn, Values
from morel_jax.losses.classification import margin

# Of the gradient steps, as a fraction of epsilon.
_LENGTH = 0.2


class GuardedSquareState(SquareState):
    """
    Attributes:
        white: the smallest lead of the label's logit over the best other one that gradient steps have reached.
    """
    white: Values


@struct.dataclass
class GuardedSquare(Square):
    """Square, ended early where its lead is not below what a few gradient steps reach: there gradients lead farther.

    Where gradients are masked, Square is soon ahead of them and runs to its last query.

    Attributes:
        epsilon, num_queries, norm, num_restarts, p_init, rescale_schedule: as in :class:`Square`.
        fewest_queries: before an end; static.
        guard_steps: gradient steps on the margin, from a random point, taken before the first query; static.

    Raises (when called):
        ValueError: as :class:`Square`.
    """
    fewest_queries: int = struct.field(pytree_node=False, default=500)
    guard_steps: int = struct.field(pytree_node=False, default=20)

    def first(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels) -> GuardedSquareState:
        state, ball = super().first(logits_fn, keys, x, y), norm(self.norm)

        def ascend(_: int, carry: tuple[Images, Values]) -> tuple[Images, Values]:
            point, white = carry
            lead, pull_back = jax.vjp(lambda point: -margin(logits_fn(point), y), point)
            down, = pull_back(-jnp.ones_like(lead))
            moved = ball.project(point + _LENGTH * self.epsilon * ball.direction(down), x, self.epsilon)
            return moved, jnp.fmin(white, lead)

        start = ball.project(ball.random_inside(keys, x, self.epsilon), x, self.epsilon)
        _, white = jax.lax.fori_loop(0, self.guard_steps + 1, ascend, (start, jnp.full_like(state.loss, jnp.inf)))
        return GuardedSquareState(**vars(state), white=white)

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: Any) -> GuardedSquareState:
        after: Any = super().step(logits_fn, keys, x, y, state)
        behind = (after.queries >= self.fewest_queries) & ~(after.loss < state.white)
        return after.replace(done=after.done | behind)
