"""MALT: Auto-PGD on the classes whose boundaries are nearest if the network were linear (arXiv:2407.02240)."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from morel_jax.attacks.apgd import APGDState, AutoPGD
from morel_jax.attacks.iterative import select
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Counts, Images, Keys, Labels, Logits, LogitsFn, Values
from morel_jax.losses.classification import label_mask, pick, targeted_difference_of_logits_ratio

# Keeps the distance to a boundary without a gradient finite.
_TINY = 1e-12


class MALTState(APGDState):
    """
    Attributes:
        scored: candidates whose distance is known.
        distances: of the candidates' linearised boundaries, in the order of their logits; infinite until known.
    """
    scored: Counts
    distances: Float[Array, "n candidates"]


@struct.dataclass
class MALT(AutoPGD):
    """Auto-PGD on the targeted DLR loss, towards the classes with the nearest linearised boundaries.

    First, a step for each candidate t takes the gradient of its lead z_t - z_y on the clean image. The lead's size over
    the dual norm of that gradient is the distance at which a linear network would change its answer to t. The ascents
    follow, from the smallest distance on, as those of :class:`APGDTargeted` from the largest logit on.

    With ten classes and nine targets the two differ in the order alone. With fewer targets MALT costs less.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        num_steps: steps of one ascent; static.
        num_targets: classes aimed at; at most the candidates; static.
        num_candidates: classes whose distances are compared, in the order of their logits; at most all others; static.
        norm: ``linf`` or ``l2``; static.
        eot: as in :class:`APGD`.

    Raises (when called):
        ValueError: an unknown ``norm``, or fewer than four classes.

    Reference: Melamed, Yehudai and Shamir, arXiv:2407.02240, with the dual norm of the ball.
    """
    epsilon: jax.typing.ArrayLike
    num_steps: int = struct.field(pytree_node=False, default=100)
    num_targets: int = struct.field(pytree_node=False, default=9)
    num_candidates: int = struct.field(pytree_node=False, default=100)
    norm: str = struct.field(pytree_node=False, default="linf")
    eot: int = struct.field(pytree_node=False, default=1)

    def _candidates(self, num_classes: int) -> int:
        return min(self.num_candidates, num_classes - 1)

    def _runs(self, num_classes: int) -> int:
        return min(self.num_targets, self._candidates(num_classes))

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> MALTState:
        state = super().start(keys, x, y, clean_logits)
        count = self._candidates(clean_logits.shape[-1])
        return MALTState(**vars(state), scored=jnp.zeros_like(state.number),
                         distances=jnp.full((x.shape[0], count), jnp.inf, x.dtype))

    def _loss(self, logits: Logits, y: Labels, state: Any) -> Values:
        # The ascents' targets are first in the order, once all candidates have been scored.
        scoring = state.scored < state.distances.shape[1]
        rank = 1 + jnp.where(scoring, state.scored, state.number)
        target = jnp.take_along_axis(state.order, rank[:, None], axis=1)[:, 0]
        lead = pick(logits, label_mask(logits, target)) - pick(logits, label_mask(logits, y))
        return jnp.where(scoring, lead, targeted_difference_of_logits_ratio(logits, y, target))

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: Any) -> MALTState:
        scoring = state.scored < state.distances.shape[1]
        point = select(scoring, x, state.run.point)
        gradient, outputs = self._evaluate(logits_fn, keys, y, state.replace(run=state.run.replace(point=point)))
        climbed = self._climb(keys, x, state, gradient, outputs)
        return select(scoring, self._score(state, gradient, outputs[1].astype(x.dtype)), climbed)

    def _score(self, state: MALTState, gradient: Images, lead: Values) -> MALTState:
        """The state after a candidate's lead and its gradient on the clean image."""
        distance = jnp.abs(lead) / jnp.maximum(norm(self.norm).dual(gradient), _TINY)
        count = state.distances.shape[1]
        distances = jnp.where(jnp.arange(count) == state.scored[:, None],
                              jnp.where(jnp.isfinite(distance), distance, jnp.inf)[:, None], state.distances)
        candidates = state.order[:, 1:1 + count]
        nearest = jnp.take_along_axis(candidates, jnp.argsort(distances, axis=1), axis=1)
        scored = state.scored + 1
        nearest = select(scored == count, nearest, candidates)
        order = jnp.concatenate([state.order[:, :1], nearest, state.order[:, 1 + count:]], axis=1)
        return state.replace(scored=scored, distances=distances, order=order)
