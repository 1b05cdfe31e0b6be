"""Square Attack: random search, one square of the image at a time (Andriushchenko et al., arXiv:1912.00049)."""
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Int32, UInt32

from morel_jax.attacks import norms, square_l2
from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.keys import fold_in_rows
from morel_jax.attacks.types import Counts, Images, KeyOrKeys, Keys, Labels, Logits, LogitsFn, Values
from morel_jax.losses.classification import margin

# Proposals after which the squares' share of the image is halved, in an attack of 10000 queries (from the paper).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULE_LENGTH = 10_000
# Linf proposals among which one step looks for one that changes a pixel. It affects no result.
_LOOKAHEAD = 4

Words = UInt32[Array, "..."]
Sizes = Int[Array, "..."]
# Images, and how many proposals were considered for them.
Proposal = tuple[Images, Counts]


class SquareState(AttackState):
    """
    Attributes:
        queries: images tried so far, including those that needed no pass through the network.
        best: the image of the lowest loss in this run; the run's start before its first query.
        loss: the lead of the label's logit there; infinite before the run's first query.
    """
    queries: Counts
    best: Images
    loss: Values


@struct.dataclass
class Square(IterativeAttack[SquareState]):
    """Square Attack, which needs no gradient.

    Linf starts from vertical stripes of +- epsilon; a proposal sets a square, in each channel, to + epsilon or
    - epsilon. L2 starts from a grid of patterns; a proposal moves the mass of one square into another. A proposal is
    accepted if it lowers the lead of the label's logit over the best other one, or is misclassified, which finishes the
    example. Squares shrink with the number of queries.

    Each example draws its own squares; the published code draws one place for the whole batch. A Linf proposal that
    changes no pixel counts as a query but takes no pass through the network, as it could only be refused. So
    ``queries`` of the state runs ahead of ``steps``. A network must give the same image the same logits.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1].
        num_queries: proposals of one run; its start is one more query; static.
        norm: ``linf`` or ``l2``; static.
        num_restarts: maximum number of runs, each from its own start; static.
        p_init: share of the image that the first squares cover; static.
        rescale_schedule: scale the schedule of shrinking, made for 10000 queries, to ``num_queries``; static.

    Raises (when called):
        ValueError: an unknown ``norm``, no query, or one class only.

    Reference: Andriushchenko, Croce, Flammarion and Hein, arXiv:1912.00049, Algorithms 1 to 3, with the schedule and
    the loss of AutoAttack's code.
    """
    epsilon: jax.typing.ArrayLike
    num_queries: int = struct.field(pytree_node=False, default=5000)
    norm: str = struct.field(pytree_node=False, default="linf")
    num_restarts: int = struct.field(pytree_node=False, default=1)
    p_init: float = struct.field(pytree_node=False, default=0.8)
    rescale_schedule: bool = struct.field(pytree_node=False, default=False)

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> SquareState:
        norms.norm(self.norm)
        if self.num_queries < 1:
            raise ValueError(f"num_queries must be at least 1; got {self.num_queries}.")
        queries = jnp.zeros(x.shape[0], jnp.int32)
        return SquareState(**begin(x, clean_logits, y), queries=queries, best=self._start_point(keys, x, queries),
                           loss=jnp.full(x.shape[0], jnp.inf, clean_logits.dtype))

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: SquareState) -> SquareState:
        run_length = 1 + self.num_queries
        number = state.queries % run_length  # Of the proposal; a run's query 0 is its start.
        proposal = _SEARCHES[self.norm].propose(self, keys, x, state, number)
        point, tried = select(number == 0, (state.best, jnp.ones_like(number)), proposal)
        logits = logits_fn(point)
        found = misclassified(logits, y)
        loss = -margin(logits, y)
        best, loss = select(found | (loss < state.loss), (point, loss), (state.best, state.loss))

        queries = state.queries + tried
        done = found | (queries == self.num_restarts * run_length)
        again = (queries % run_length == 0) & ~done & ~state.done
        if self.num_restarts > 1:
            best = jax.lax.cond(jnp.any(again), lambda: select(again, self._start_point(keys, x, queries), best),
                                lambda: best)
        return state.replace(done=done, found=found, x_adv=select(found, point, x), queries=queries, best=best,
                             loss=jnp.where(again, jnp.inf, loss))

    def _start_point(self, keys: Keys, x: Images, queries: Counts) -> Images:
        def coins(count: int) -> Bool[Array, "n count"]:
            return _signs(_words(fold_in_rows(keys, queries), _sign_words(count)), count)

        return _SEARCHES[self.norm].start(coins, x, self.epsilon)

    def _sides(self, x: Images) -> np.ndarray:
        return side_lengths(self.num_queries, *x.shape[1:3], self.norm, self.p_init, self.rescale_schedule)


@functools.lru_cache
def side_lengths(num_queries: int, h: int, w: int, norm: str = "linf", p_init: float = 0.8,
                 rescale_schedule: bool = False) -> Int32[np.ndarray, " 1+num_queries"]:
    """Sides of the squares on images ``h`` by ``w``, by proposal; entry 0, the start, has the first proposal's."""
    def side(number: int) -> int:
        # The published code numbers its proposals from 0.
        time = max(number - 1, 0)
        if rescale_schedule:
            time = int(time / num_queries * _SCHEDULE_LENGTH)
        return _SEARCHES[norm].side(p_init / 2 ** sum(time > last for last in _HALVED_AFTER), h, w)

    return np.array([side(number) for number in range(1 + num_queries)], np.int32)


def _words(keys: KeyOrKeys, count: int) -> Words:
    """Random words, ``count`` for each key."""
    words = jax.vmap(lambda key: jax.random.bits(key, (count,)))(keys.reshape(-1))
    return words.reshape(*keys.shape, count)


def _sign_words(channels: int) -> int:
    return -(-channels // 32)


def _signs(words: Words, channels: int) -> Bool[Array, "... channels"]:
    """One bit each of words[..., _sign_words(channels)]."""
    channel = jnp.arange(channels, dtype=jnp.uint32)
    return (words[..., channel // 32] >> (channel % 32)) & 1 == 1


def _place(words: Words, side: Sizes, h: int, w: int) -> tuple[Sizes, Sizes]:
    """Top and left of a square of ``side``, chosen by words[..., 2].

    They are in 0 .. size - side - 1, as published: no square reaches the last row or column unless it fills the axis.
    """
    def corner(word: Words, size: int) -> Sizes:
        return (word % jnp.maximum(size - side, 1).astype(jnp.uint32)).astype(jnp.int32)

    return corner(words[..., 0], h), corner(words[..., 1], w)


def _window(top: Sizes, left: Sizes, side: Sizes, h: int, w: int) -> Bool[Array, "... h w 1"]:
    """The pixels that a square covers."""
    def covered(first: Sizes, size: int) -> Bool[Array, "... size"]:
        offset = jnp.arange(size) - first[..., None]
        return (offset >= 0) & (offset < side[..., None])

    return covered(top, h)[..., :, None, None] & covered(left, w)[..., None, :, None]


def _extreme(raised: Bool[Array, "n _ w c"] | bool, x: Images, epsilon: ArrayLike) -> Images:
    """Each pixel at the upper end of its range where ``raised``, otherwise at the lower end."""
    return jnp.clip(jnp.where(raised, x + epsilon, x - epsilon), 0.0, 1.0)


def _linf_side(share: float, h: int, w: int) -> int:
    return min(max(round(math.sqrt(share * h * w)), 1), h, w)


def _linf_start(coins: Callable[[int], Bool[Array, "n count"]], x: Images, epsilon: ArrayLike) -> Images:
    n, _, w, c = x.shape
    return _extreme(coins(w * c).reshape(n, 1, w, c), x, epsilon)


def _linf_propose(attack: Square, keys: Keys, x: Images, state: SquareState, number: Counts) -> Proposal:
    """Of the next few proposals, the first that changes a pixel, or the last one."""
    _, h, w, c = x.shape
    ahead = jnp.arange(_LOOKAHEAD)
    numbers = number[:, None] + ahead
    side = jnp.asarray(attack._sides(x))[jnp.minimum(numbers, attack.num_queries)]
    fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    words = _words(fold_in(keys, state.queries[:, None] + ahead), 2 + _sign_words(c))
    top, left = _place(words[..., :2], side, h, w)
    raised = _signs(words[..., 2:], c)

    # In its square a proposal puts every pixel at an end of its range.
    low, high = _extreme(False, x, epsilon=attack.epsilon), _extreme(True, x, epsilon=attack.epsilon)
    differs = jnp.where(raised[:, :, None, None, :], (state.best != high)[:, None], (state.best != low)[:, None])
    changes = jnp.any(_window(top, left, side, h, w) & differs, axis=(2, 3, 4)) & (numbers <= attack.num_queries)
    first = jnp.argmax(changes, axis=1).astype(jnp.int32)
    tried = jnp.where(jnp.any(changes, axis=1), first + 1, jnp.minimum(_LOOKAHEAD, attack.num_queries + 1 - number))

    def of_first(values: Array) -> Array:
        return jax.vmap(lambda row, place: row[place])(values, first)

    window = _window(of_first(top), of_first(left), of_first(side), h, w)
    set_to = jnp.where(of_first(raised)[:, None, None, :], high, low)
    return jnp.where(window, set_to, state.best), tried


def _l2_propose(attack: Square, keys: Keys, x: Images, state: SquareState, number: Counts) -> Proposal:
    """As :func:`_linf_propose`, but always the next proposal."""
    _, h, w, c = x.shape
    sides = attack._sides(x)
    known, which = np.unique(sides, return_inverse=True)
    side = jnp.asarray(sides)[number]
    words = _words(fold_in_rows(keys, state.queries), 5 + _sign_words(c))
    top, left = _place(words[:, 0:2], side, h, w)
    into = _window(top, left, side, h, w)
    out_of = _window(*_place(words[:, 2:4], side, h, w), side, h, w)
    pattern = square_l2.placed(square_l2.patterns(tuple(known)), jnp.asarray(which)[number], top, left,
                               _signs(words[:, 4:5], 1)[:, 0], h, w)
    sign = jnp.where(_signs(words[:, 5:], c), 1.0, -1.0).astype(x.dtype)
    fresh = jnp.where(into, pattern[..., None] * sign[:, None, None, :], 0.0)
    return square_l2.move(state.best, x, attack.epsilon, fresh, into, out_of), jnp.ones_like(number)


class _Search(NamedTuple):
    """What differs between the norms.

    Attributes:
        side: (share of the image, h, w) -> side of the squares.
        start: (coins, x, epsilon) -> images, with ``coins(count)`` random booleans[n, count].
        propose: (attack, keys, x, state, number of the next proposal) -> the proposal.
    """
    side: Callable[[float, int, int], int]
    start: Callable[[Callable[[int], Bool[Array, "n count"]], Images, ArrayLike], Images]
    propose: Callable[[Square, Keys, Images, SquareState, Counts], Proposal]


_SEARCHES = {
    "linf": _Search(_linf_side, _linf_start, _linf_propose),
    "l2": _Search(square_l2.side, square_l2.start, _l2_propose),
}
