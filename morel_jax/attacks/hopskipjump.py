"""HopSkipJump: a nearest-image attack that asks the network for labels alone (arXiv:1904.02144)."""
import math
from types import ModuleType

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from morel_jax.attacks.descent import like
from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.iterative import select
from morel_jax.attacks.keys import fold_in_rows
from morel_jax.attacks.nearest import NearestAttack, NearestState, begin_nearest
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Counts, Images, Keys, Labels, Logits, LogitsFn, Mask, Values

# What the next query is for.
_START, _SEARCH, _ESTIMATE, _STEP = range(4)
# ART's constants: random images tried as a start; probes at most; length of probes, first in pixel units and then as a
# fraction of the distance; and the search's tolerance over that of the paper, d**-0.5 in L2 and 1 / d in Linf.
_STARTS, _MOST_PROBES, _FIRST_PROBE, _PROBE, _TOLERANCE = 100, 10_000, 0.1, 0.01, 0.01
# Random images are of squares with sides 1, 2, 4 and so on in turn, this many sizes: of pixels alone, all may be of one
# class, whose own images would then have no start.
_SIZES = 6
# A step that has been halved this often moves no pixel.
_HALVINGS = 24


class HopSkipJumpState(NearestState):
    """
    Attributes:
        phase: what the next query is for.
        count: queries of this phase so far.
        turn: searches completed.
        point: where the search started, and from its end on the image at the boundary.
        low, high: the distances between which the search looks; ``high`` is then that of ``point``.
        length: of the move: where the search started, or of the next step.
        total, plain: sums of the probes, with the sign of what the network answered and without; from the last
            probe on ``total`` is the direction of the step.
        hits: probes that were adversarial.
    """
    phase: Counts
    count: Counts
    turn: Counts
    point: Images
    low: Values
    high: Values
    length: Values
    total: Images
    plain: Images
    hits: Values


@struct.dataclass
class HopSkipJump(NearestAttack[HopSkipJumpState]):
    """HopSkipJump, for networks of which only the answered class is known.

    From a random image that is misclassified (of pixels, then of larger and larger squares), a binary search leads back
    towards the image, as far as the boundary. There random probes, on either side of the boundary, estimate its normal;
    a step along it leads away from the boundary, and the next search begins. Each of these takes queries, and every
    query that is adversarial counts.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1]; an example is finished once an adversarial image is within
            it. None: an image at any distance counts.
        num_queries: at most, without the one on the clean image; static.
        norm: ``linf`` or ``l2``; static.
        initial_probes: in the first estimate; the n-th has sqrt(n) times as many, at most 10,000; static.
        thorough: whether to continue after something within ``epsilon`` is found, for something nearer; static.

    Raises (when called):
        ValueError: an unknown ``norm``.

    Reference: Chen, Jordan and Wainwright, arXiv:1904.02144, algorithm 2, with the constants of ART's ``HopSkipJump``.
        The first search is in the ball's norm, in Linf too; and random images are not of pixels alone.
    """
    epsilon: jax.typing.ArrayLike | None
    num_queries: int = struct.field(pytree_node=False, default=5000)
    norm: str = struct.field(pytree_node=False, default="linf")
    initial_probes: int = struct.field(pytree_node=False, default=100)
    thorough: bool = struct.field(pytree_node=False, default=False)

    @property
    def bounded(self) -> bool:
        """Whether there is an ``epsilon``."""
        return self.epsilon is not None

    def limit(self, x: Images) -> jax.typing.ArrayLike:
        """See :class:`NearestAttack`."""
        return super().limit(x) if self.epsilon is None else self.epsilon

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> HopSkipJumpState:
        del keys
        norm(self.norm)
        fields = begin_nearest(x, clean_logits, y)
        zeros, count = jnp.zeros(x.shape[0], x.dtype), jnp.zeros(x.shape[0], jnp.int32)
        return HopSkipJumpState(**fields, phase=count + _START, count=count, turn=count, point=x, low=zeros, high=zeros,
                                length=zeros, total=jnp.zeros_like(x), plain=jnp.zeros_like(x), hits=zeros)

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: HopSkipJumpState) -> HopSkipJumpState:
        ball = norm(self.norm)
        keys = fold_in_rows(keys, state.steps)
        between = ball.project(state.point, x, like((state.low + state.high) / 2, x))
        beyond = jnp.clip(state.point + like(state.length, x) * state.total, 0.0, 1.0)
        queried = select(state.phase == _SEARCH, between, select(
            state.phase == _ESTIMATE, self._probe(ball, keys, state), beyond))
        starting = state.phase == _START
        queried = jax.lax.cond(jnp.any(starting), lambda: select(starting, _blocks(keys, x, state.count), queried),
                               lambda: queried)
        hit = misclassified(logits_fn(queried), y)
        state = self.keep(x, queried, hit, state)
        state = state.replace(count=state.count + 1)
        moved = state
        for phase, after in ((_START, self._after_start), (_SEARCH, self._after_search),
                             (_ESTIMATE, self._after_probe), (_STEP, self._after_step)):
            moved = select(state.phase == phase, after(ball, x, queried, hit, state), moved)
        spent = state.steps + 1 == self.num_queries
        enough = self.bounded and not self.thorough
        return moved.replace(done=moved.done | spent | (state.found & enough))

    def _probe(self, ball: ModuleType, keys: Keys, state: HopSkipJumpState) -> Images:
        x = state.point
        length = jnp.where(state.turn == 0, _FIRST_PROBE, _PROBE * state.high)
        if self.norm == "linf":
            noise = 2 * _uniform(keys, x) - 1
        else:
            noise = ball.direction(jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys))
        return jnp.clip(x + like(length, x) * noise, 0.0, 1.0)

    def _search_from(self, ball: ModuleType, x: Images, source: Images, state: HopSkipJumpState) -> HopSkipJumpState:
        """A new search from an adversarial image."""
        distance = ball.distance(source, x)
        return state.replace(phase=jnp.full_like(state.phase, _SEARCH), count=jnp.zeros_like(state.count), point=source,
                             low=jnp.zeros_like(distance), high=distance, length=distance)

    def _after_start(self, ball: ModuleType, x: Images, queried: Images, hit: Mask,
                     state: HopSkipJumpState) -> HopSkipJumpState:
        waiting = state.replace(done=state.count == _STARTS)
        return select(hit, self._search_from(ball, x, queried, state), waiting)

    def _after_search(self, ball: ModuleType, x: Images, queried: Images, hit: Mask,
                      state: HopSkipJumpState) -> HopSkipJumpState:
        del queried
        middle, size = (state.low + state.high) / 2, x[0].size
        low, high = jnp.where(hit, state.low, middle), jnp.where(hit, middle, state.high)
        tolerance = _TOLERANCE / (size if self.norm == "linf" else math.sqrt(size))
        halfway = (low + high) / 2  # Floats may have no number between the two.
        ended = (high - low <= tolerance * state.length) | (halfway == low) | (halfway == high)
        searching = state.replace(low=low, high=high)
        at_boundary = searching.replace(
            phase=jnp.full_like(state.phase, _ESTIMATE), count=jnp.zeros_like(state.count),
            point=ball.project(state.point, x, like(high, x)), total=jnp.zeros_like(x), plain=jnp.zeros_like(x),
            hits=jnp.zeros_like(state.hits))
        return select(ended, at_boundary, searching)

    def _after_probe(self, ball: ModuleType, x: Images, queried: Images, hit: Mask,
                     state: HopSkipJumpState) -> HopSkipJumpState:
        move = queried - state.point  # The box may have cut the probe short.
        state = state.replace(total=state.total + like(jnp.where(hit, 1, -1), x) * move, plain=state.plain + move,
                              hits=state.hits + hit)
        probes = jnp.minimum((self.initial_probes * jnp.sqrt(state.turn + 1.0)).astype(jnp.int32), _MOST_PROBES)
        mean = 2 * state.hits / state.count - 1
        # Where all answers agree, their mean would leave nothing.
        mixed = jnp.abs(mean) < 1
        normal = select(mixed, state.total - like(mean, x) * state.plain, like(mean, x) * state.plain)
        stepping = state.replace(
            phase=jnp.full_like(state.phase, _STEP), count=jnp.zeros_like(state.count), total=ball.direction(normal),
            length=state.high / jnp.sqrt(state.turn + 1.0).astype(x.dtype))
        return select(state.count >= probes, stepping, state)

    def _after_step(self, ball: ModuleType, x: Images, queried: Images, hit: Mask,
                    state: HopSkipJumpState) -> HopSkipJumpState:
        source = select(hit, queried, state.point)
        ahead = self._search_from(ball, x, source, state.replace(turn=state.turn + 1))
        return select(hit | (state.count == _HALVINGS), ahead, state.replace(length=state.length / 2))


def _blocks(keys: Keys, x: Images, number: Counts) -> Images:
    """Images of random squares; ``number`` chooses their size."""
    h, w = x.shape[1:3]

    def coarse(noise: Array, side: Array) -> Array:
        return noise[jnp.arange(h) // side * side][:, jnp.arange(w) // side * side]

    return jax.vmap(coarse)(_uniform(keys, x), 2 ** (number % _SIZES))


def _uniform(keys: Keys, x: Images) -> Images:
    return jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype))(keys)
