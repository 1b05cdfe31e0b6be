"""The active set: attacks run on blocks of one shape, in which finished examples make room for waiting ones.

A block is a fixed number of rows, and one compiled program moves all rows on until enough of them are done. The block's
width never changes, whatever the batch size and the number of devices: so there is one compile, and as an attack's
rows know nothing of each other, an example's result is the same bit for bit wherever and with whatever it was computed.
Once no examples wait, blocks that have become half empty are put together.
"""
import dataclasses
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.keys import fold_in_each
from morel_jax.evaluation.handover import Handover
from morel_jax.evaluation.judge import judge_jit
from morel_jax.targets.flops import count_flops

# Rows of a block. A CPU core works best on what stays in its cache, and is full with fewer rows of a large network; an
# accelerator wants to be filled.
_CPU_WIDTH, _CPU_WIDTH_LARGE, _LARGE_FLOPS = 16, 8, 1e8
_ACCELERATOR_WIDTH = 256
# A block comes back for new examples when this share of its rows waits for them, or after about this many seconds.
_WAITING_SHARE = 0.25
_SECONDS = 0.5


@struct.dataclass
class OneCall(IterativeAttack):
    """Any attack, as one that takes a single step.

    Attributes:
        attack: called as ``attack(logits_fn, keys, x, y)``.
        passes: what its one step counts for; static.
    """
    attack: Any
    passes: int = struct.field(pytree_node=False, default=1)

    def start(self, keys, x, y, clean_logits):
        """See :class:`IterativeAttack`."""
        return AttackState(**begin(x, clean_logits, y))

    def step(self, logits_fn, keys, x, y, state):
        """See :class:`IterativeAttack`."""
        return state.replace(done=jnp.ones_like(state.done), x_adv=self.attack(logits_fn, keys, x, y))


@struct.dataclass
class _Block:
    keys: Any
    x: Any
    y: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class Finished:
    """One attacked and judged example.

    Attributes:
        index: its place in the data set.
        steps: passes through the network that the attack took; queries where the attack counts them.
        verdict: dict of the fields of :class:`~morel_jax.evaluation.judge.Verdict`, numpy, of this example.
    """
    index: int
    steps: int
    verdict: dict


def as_argument(logits_fn):
    """``logits_fn`` in a form that compiled functions take as an argument, its weights as leaves where it has any."""
    return logits_fn if isinstance(logits_fn, jax.tree_util.Partial) else jax.tree_util.Partial(logits_fn)


def block_width(logits_fn, image_shape):
    """Rows of a block on the default backend.

    Args:
        logits_fn: the network that is attacked.
        image_shape: (h, w, c).
    """
    if jax.default_backend() != "cpu":
        return _ACCELERATOR_WIDTH
    flops = count_flops(logits_fn, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return _CPU_WIDTH if flops < _LARGE_FLOPS else _CPU_WIDTH_LARGE


def _workers():
    """One device for each block that is worked on at a time."""
    devices = jax.local_devices()
    if len(devices) == 1 and devices[0].platform == "cpu":
        # One thread a core, each with its own block, leaves fewer cores idle than many threads in one block.
        # macOS tells of no affinity.
        return devices * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return devices


@jax.jit
def _begin(attack, logits_fn, key, index, x, y):
    """A block of new examples."""
    keys = fold_in_each(key, index)
    return _Block(keys, x, y, attack.first(logits_fn, keys, x, y))


@jax.jit
def _put(block, new, taken, empty):
    """The block with new examples in the rows ``taken``; those that are ``empty`` are done."""
    block = select(taken, new, block)
    return block.replace(state=block.state.replace(done=block.state.done | empty))


@jax.jit
def _join(block, other, source, taken):
    """The block with the rows ``source`` of another one in its own rows ``taken``."""
    return select(taken, jax.tree.map(lambda leaf: leaf[source], other), block)


@jax.jit
def _advance(attack, logits_fn, block, max_steps, want):
    """Moves the rows on until ``want`` of them are done, or ``max_steps`` steps; returns (block, steps taken)."""
    def more(carry):
        block, taken = carry
        return (taken < max_steps) & (jnp.sum(block.state.done) < want)

    def step(carry):
        block, taken = carry
        return block.replace(state=attack.advance(logits_fn, block.keys, block.x, block.y, block.state)), taken + 1

    return jax.lax.while_loop(more, step, (block, 0))


class _Waiting:
    """Examples not begun yet, handed out under a lock."""

    def __init__(self, indices):
        self._indices, self._next, self._lock = indices, 0, threading.Lock()

    def take(self, count):
        with self._lock:
            taken = self._indices[self._next:self._next + count]
            self._next += len(taken)
            return taken

    def any(self):
        return self._next < len(self._indices)


class _Worker:
    """One block and its device."""

    def __init__(self, pool, number, device, slots, waiting, handover, report, stop):
        self._pool, self._number, self._device, self._slots = pool, number, device, slots
        self._waiting, self._handover, self._report, self._stop = waiting, handover, report, stop
        self._attack, self._crafted_on, self._target = jax.device_put(
            (pool.attack, pool.crafted_on, pool.target), device)
        self._index = np.full(pool.width, -1)  # Which example a row holds; -1: none.
        self._block: Any = None
        self._max_steps = 4

    def run(self):
        with jax.default_device(self._device):
            while not self._stop.is_set():
                for block, rows, index in self._handover.take(self._number):
                    self._receive(block, rows, index)
                self._fill()
                rows = np.flatnonzero(self._index >= 0)
                if len(rows) == 0:
                    if self._handover.leave(self._number):
                        return
                    continue
                if not self._waiting.any():
                    if self._handover.give(self._number, (self._block, rows, self._index[rows]), len(rows)):
                        return
                    self._handover.announce(self._number, self._slots - len(rows))
                self._move()
                self._collect()

    def _free(self):
        return np.flatnonzero(self._index[:self._slots] < 0)

    def _receive(self, block, rows, index):
        places = self._free()[:len(rows)]
        source, taken = np.zeros(self._pool.width, int), np.zeros(self._pool.width, bool)
        source[places], taken[places], self._index[places] = rows, True, index
        self._block = _join(self._block, block, source, taken)

    def _fill(self):
        free = self._free()
        taken = self._waiting.take(len(free))
        if len(taken) == 0:
            return
        rows = free[:len(taken)]
        mask = np.zeros(self._pool.width, bool)
        mask[rows] = True
        self._index[rows] = taken
        # Rows that hold nothing repeat a taken example; they are not read.
        index = np.where(mask, self._index, taken[0])
        new = _begin(self._attack, self._crafted_on, *jax.device_put(
            (self._pool.key, index, self._pool.images(index), self._pool.labels[index]), self._device))
        self._block = _put(new if self._block is None else self._block, new, mask, self._index < 0)

    def _move(self):
        occupied = int(np.sum(self._index >= 0))
        enough = max(1, int(self._slots * _WAITING_SHARE)) if self._waiting.any() else occupied
        began = time.monotonic()
        self._block, taken = _advance(self._attack, self._crafted_on, self._block, self._max_steps,
                                      self._pool.width - occupied + min(enough, occupied))
        if int(taken) == self._max_steps:
            seconds = time.monotonic() - began
            self._max_steps = max(1, int(self._max_steps * min(2, _SECONDS / max(seconds, 1e-3))))

    def _collect(self):
        state = self._block.state
        rows = np.flatnonzero(np.asarray(state.done) & (self._index >= 0))
        if len(rows) == 0:
            return
        verdict = jax.device_get(judge_jit(self._target, self._block.x, state.x_adv, self._block.y,
                                           self._pool.radius, norm_name=self._pool.norm))
        steps = np.asarray(getattr(state, "queries", state.steps)) * self._pool.attack.passes
        self._report([Finished(int(self._index[row]), int(steps[row]),
                               {name: np.array(values[row]) for name, values in vars(verdict).items()})
                      for row in rows])
        self._index[rows] = -1


class Pool:
    """An attack, the networks it is crafted on and judged on, and the data.

    Args:
        attack: an :class:`~morel_jax.attacks.iterative.IterativeAttack` (others: in :class:`OneCall`).
        crafted_on, target: ``logits_fn`` that the attack sees, and that its images are judged on.
        key: the attack's key; example i gets ``fold_in(key, i)``.
        images: int[m] indices -> float32[m, h, w, c] in [0, 1].
        labels: int32[n].
        radius: what the judge allows; infinity where the attack is not bounded.
        width: rows of a block; another width may round differently.
        norm: of the radius.
    """

    def __init__(self, attack, crafted_on, target, key, images, labels, radius, width, norm="linf"):
        self.attack, self.key, self.images, self.labels = attack, key, images, labels
        self.crafted_on, self.target = as_argument(crafted_on), as_argument(target)
        self.radius, self.norm, self.width = np.float32(radius), norm, width

    def run(self, indices, report, batch_size=None):
        """Attacks the examples ``indices``.

        Args:
            indices: int[m], places in the data set.
            report: called with a list of :class:`Finished`, from one thread at a time, as examples finish.
            batch_size: examples under way at a time; None: a block for each core or device. It changes no result.
        """
        workers = _workers()
        # More than there are would only be threads and blocks without work.
        batch_size = min(batch_size or self.width * len(workers), max(len(indices), self.width))
        blocks = -(-batch_size // self.width)
        slots = [min(self.width, batch_size - self.width * number) for number in range(blocks)]
        devices = [workers[number % len(workers)] for number in range(blocks)]
        waiting, handover = _Waiting(np.asarray(indices)), Handover(devices)
        lock, stop = threading.Lock(), threading.Event()

        def report_one_at_a_time(finished):
            with lock:
                report(finished)

        with ThreadPoolExecutor(blocks) as threads:
            try:
                running = [threads.submit(_Worker(self, number, devices[number], slots[number], waiting, handover,
                                                  report_one_at_a_time, stop).run) for number in range(blocks)]
                for worker in running:
                    worker.result()
            finally:
                stop.set()  # An error in one, or Ctrl-C: the others end after their next few steps.


@jax.jit
def _logits(logits_fn, x):
    return logits_fn(x)


def clean_logits(logits_fn, images, indices, width):
    """Logits [m, classes] of the examples ``indices`` as a numpy array, in blocks of ``width`` rows."""
    logits_fn = as_argument(logits_fn)
    found = []
    for first in range(0, len(indices), width):
        rows = np.resize(indices[first:first + width], width)
        found.append(np.asarray(_logits(logits_fn, images(rows)))[:len(indices) - first])
    return np.concatenate(found)
