"""The active set: attacks run on blocks of one shape, in which finished examples make room for waiting ones.

One compiled program advances all rows of a block until enough of them are done. Every block has the evaluator's width,
and its rows do not affect each other, so an example's result is the same bit for bit on any device and beside any
others.
"""
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.types import Images, KeyOrKeys, Keys, Labels, Logits, LogitsFn
from morel_jax.evaluation.evaluator import Evaluator, Index
from morel_jax.evaluation.recheck import recheck_jit
from morel_jax.evaluation.scheduler import Scheduler
from morel_jax.targets.flops import count_flops

# A block is refilled when this fraction of its rows has finished, or after about this many seconds.
_REFILL_FRACTION = 0.25
_SECONDS = 0.5


@struct.dataclass
class OneCall(IterativeAttack):
    """Any attack, as one that takes a single step.

    Attributes:
        attack: called as ``attack(logits_fn, keys, x, y)``.
        passes: through the network in its one step; static.
        at_random: whether the network that it attacks answers at random, so that one answer on the clean image does not
            say whether it needs an attack; static.
    """
    attack: Any
    passes: int = struct.field(pytree_node=False, default=1)
    at_random: bool = struct.field(pytree_node=False, default=False)

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> AttackState:
        """See :class:`IterativeAttack`."""
        return AttackState(**begin(x, clean_logits, y))

    def first(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels) -> AttackState:
        """See :class:`IterativeAttack`."""
        if not self.at_random:
            return super().first(logits_fn, keys, x, y)
        nothing = jnp.zeros(y.shape, bool)
        return AttackState(done=nothing, found=nothing, x_adv=x, steps=jnp.zeros(y.shape, jnp.int32))

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: AttackState) -> AttackState:
        """See :class:`IterativeAttack`."""
        return state.replace(done=jnp.ones_like(state.done), x_adv=self.attack(logits_fn, keys, x, y))


class _Block(struct.PyTreeNode):
    keys: Any
    x: Any
    y: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class Finished:
    """One attacked example.

    Attributes:
        index: its place in the data set.
        steps: passes through the network that the attack took, or queries where it counts them.
        rechecked: its fields of :class:`~morel_jax.evaluation.recheck.Rechecked`, as a dict of NumPy values.
    """
    index: int
    steps: int
    rechecked: dict


Report = Callable[[list[Finished]], None]


def _workers() -> list[jax.Device]:
    """The devices of the blocks that are worked on at the same time."""
    devices = jax.local_devices()
    if len(devices) == 1 and devices[0].platform == "cpu":
        # One thread per core, each with its own block, leaves fewer cores idle than many threads in one block.
        # macOS does not report affinity.
        return devices * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return devices


@jax.jit
def _begin(attack: IterativeAttack, logits_fn: LogitsFn, key: KeyOrKeys, index: Int[Array, " n"], x: Images,
           y: Labels) -> _Block:
    """A block of new examples."""
    keys = fold_in_each(key, index)
    return _Block(keys, x, y, attack.first(logits_fn, keys, x, y))


@jax.jit
def _put(block: _Block, new: _Block, taken: Bool[Array, " n"], empty: Bool[Array, " n"]) -> _Block:
    """The block with new examples in the rows ``taken``; rows that are ``empty`` are done."""
    block = select(taken, new, block)
    return block.replace(state=block.state.replace(done=block.state.done | empty))


@jax.jit
def _join(block: _Block, other: _Block, source: Int[Array, " n"], taken: Bool[Array, " n"]) -> _Block:
    """The block with the rows ``source`` of another one in its own rows ``taken``."""
    return select(taken, jax.tree.map(lambda leaf: leaf[source], other), block)


@jax.jit
def _advance(attack: IterativeAttack, logits_fn: LogitsFn, block: _Block, max_steps: int,
             want: int) -> tuple[_Block, int]:
    """Advances the rows until ``want`` of them are done, or for ``max_steps`` steps; returns (block, steps taken)."""
    def more(carry: tuple[_Block, int]) -> Array:
        block, taken = carry
        return (taken < max_steps) & (jnp.sum(block.state.done) < want)

    def step(carry: tuple[_Block, int]) -> tuple[_Block, int]:
        block, taken = carry
        return block.replace(state=attack.advance(logits_fn, block.keys, block.x, block.y, block.state)), taken + 1

    return jax.lax.while_loop(more, step, (block, 0))


def lower_block(attack: IterativeAttack, logits_fn: jax.tree_util.Partial, width: int, image_shape: Sequence[int],
                device: jax.Device) -> tuple[jax.stages.Lowered, int]:
    """The program that moves a block on, for shapes alone and a device that need not be there.

    Args:
        attack: :class:`~morel_jax.attacks.iterative.IterativeAttack`.
        logits_fn: ``jax.tree_util.Partial``, with arrays or shapes as its leaves.
        width: rows of the block.
        image_shape: (h, w, c).
        device: of the block.

    Returns:
        (``jax.stages.Lowered``, its FLOPs in one step of all rows).
    """
    of_rows = partial(jax.ShapeDtypeStruct, dtype=np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((width, *image_shape), np.float32)
    block = jax.eval_shape(_begin, attack, logits_fn, key, of_rows((width,)), images, of_rows((width,)))
    shapes = jax.eval_shape(lambda *arguments: arguments, attack, logits_fn, block)
    placed = jax.tree.map(lambda leaf: leaf.update(sharding=jax.sharding.SingleDeviceSharding(device)), shapes)
    return _advance.lower(*placed, 1, width), count_flops(_advance, *shapes, 1, width)


@dataclasses.dataclass(frozen=True)
class Pool:
    """An attack, and what it is run on.

    Attributes:
        attack: an :class:`~morel_jax.attacks.iterative.IterativeAttack` (others: in :class:`OneCall`).
        evaluator: :class:`~morel_jax.evaluation.evaluator.Evaluator`; on its network the images are rechecked.
        crafted_on: ``jax.tree_util.Partial``, the network that the attack sees.
        key: the attack's key; example i gets ``fold_in(key, i)``.
        radius: the ball that images must stay in; infinite where there is none.
        norm: of the radius.
        minimal: see :func:`~morel_jax.evaluation.recheck.recheck`.
    """
    attack: IterativeAttack
    evaluator: Evaluator
    crafted_on: Any
    key: Any
    radius: float
    norm: str = "linf"
    minimal: bool = False

    def run(self, indices: Index | Sequence[int], report: Report, batch_size: int | None = None) -> None:
        """Attacks the examples ``indices``, places in the data set.

        Args:
            report: called as examples finish, from one thread at a time.
            batch_size: examples under way at a time; None: a block for each core or device. It changes no result.
        """
        width, workers, lock = self.evaluator.width, _workers(), threading.Lock()
        # A larger number would only start threads without work.
        batch_size = min(batch_size or width * len(workers), max(len(indices), width))
        slots = [min(width, batch_size - first) for first in range(0, batch_size, width)]
        scheduler = Scheduler(np.asarray(indices), [workers[number % len(workers)] for number in range(len(slots))])

        def report_one_at_a_time(finished: list[Finished]) -> None:
            with lock:
                report(finished)

        with ThreadPoolExecutor(len(slots)) as threads:
            try:
                for worker in [threads.submit(_Worker(self, scheduler, report_one_at_a_time, number, count).work)
                               for number, count in enumerate(slots)]:
                    worker.result()
            finally:
                scheduler.stop.set()  # After an error in one, or Ctrl-C, the others end after their next few steps.


class _Worker:
    """One block and its device."""

    def __init__(self, pool: Pool, scheduler: Scheduler, report: Report, number: int, slots: int) -> None:
        self._pool, self._scheduler, self._report, self._number, self._slots = pool, scheduler, report, number, slots
        self._evaluator, self._device = pool.evaluator, scheduler.devices[number]
        self._attack, self._crafted_on, self._network = jax.device_put(
            (pool.attack, pool.crafted_on, pool.evaluator.logits_fn), self._device)
        self._index = np.full(self._evaluator.width, -1)  # The example that a row holds; -1: none.
        self._block: Any = None
        self._max_steps = 4

    def work(self) -> None:
        with jax.default_device(self._device):
            while not self._scheduler.stop.is_set():
                for block, rows, index in self._scheduler.receive(self._number):
                    self._receive(block, rows, index)
                self._fill()
                rows = np.flatnonzero(self._index >= 0)
                if len(rows) == 0:
                    if self._scheduler.leave(self._number):
                        return
                    continue
                if not self._scheduler.has_waiting():
                    if self._scheduler.give(self._number, (self._block, rows, self._index[rows]), len(rows)):
                        return
                    self._scheduler.announce(self._number, self._slots - len(rows))
                self._advance()
                self._collect()

    def _free(self) -> Index:
        return np.flatnonzero(self._index[:self._slots] < 0)

    def _receive(self, block: _Block, rows: Index, index: Index) -> None:
        places = self._free()[:len(rows)]
        source, taken = np.zeros(len(self._index), int), np.zeros(len(self._index), bool)
        source[places], taken[places], self._index[places] = rows, True, index
        self._block = _join(self._block, block, source, taken)

    def _fill(self) -> None:
        free = self._free()
        taken = self._scheduler.take(len(free))
        if len(taken) == 0:
            return
        rows = free[:len(taken)]
        mask = np.zeros(len(self._index), bool)
        mask[rows] = True
        self._index[rows] = taken
        # Rows that hold nothing repeat a taken example; they are not read.
        index = np.where(mask, self._index, taken[0])
        new = _begin(self._attack, self._crafted_on, *jax.device_put(
            (self._pool.key, index, self._evaluator.x(index), self._evaluator.labels[index]), self._device))
        self._block = _put(new if self._block is None else self._block, new, mask, self._index < 0)

    def _advance(self) -> None:
        occupied = int(np.sum(self._index >= 0))
        enough = max(1, int(self._slots * _REFILL_FRACTION)) if self._scheduler.has_waiting() else occupied
        began = time.monotonic()
        self._block, taken = _advance(self._attack, self._crafted_on, self._block, self._max_steps,
                                      len(self._index) - occupied + min(enough, occupied))
        if int(taken) == self._max_steps:
            seconds = time.monotonic() - began
            self._max_steps = max(1, int(self._max_steps * min(2, _SECONDS / max(seconds, 1e-3))))

    def _collect(self) -> None:
        state = self._block.state
        rows = np.flatnonzero(np.asarray(state.done) & (self._index >= 0))
        if len(rows) == 0:
            return
        network = self._evaluator.verdict(self._index, self._network)
        rechecked = jax.device_get(recheck_jit(network, self._block.x, state.x_adv, self._block.y,
                                               np.float32(self._pool.radius), norm_name=self._pool.norm,
                                               minimal=self._pool.minimal))
        steps = np.asarray(getattr(state, "queries", state.steps)) * self._attack.passes
        self._report([Finished(int(self._index[row]), int(steps[row]),
                               {name: np.array(values[row]) for name, values in vars(rechecked).items()})
                      for row in rows])
        self._index[rows] = -1
