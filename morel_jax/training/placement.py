"""Where runs lie on the devices: one run cut over a mesh, or many runs stacked along a first axis.

A placement knows arrays and compiled programs, and nothing of epochs, files or signals. ``Trainer`` works with either.
"""
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Int32, Key, PyTree, UInt8
from ml_collections import ConfigDict

from morel_jax import sharding
from morel_jax.attacks.types import Labels, Mask
from morel_jax.data import Split
from morel_jax.training.epoch import Piece, Totals, compile_train_epoch, compiler_options, train_epoch
from morel_jax.training.feed import DeviceFeed, HostFeed, Order, build_feed
from morel_jax.training.setup import Setup, purpose_key
from morel_jax.training.state import HParams, TrainState
from morel_jax.training.step import Parts
from morel_jax.training.validation import Correct, accuracies, build_correct, compile_correct

_Tree = TypeVar("_Tree")
_Right = tuple[Bool[Array, "slots n"], Bool[Array, "slots n"]]  # Clean and attacked.
AXIS = "member"
# How the members of one device are worked on: one after another, or each operation on all of them at once.
MODES = ("sequential", "vmapped")


def check_compiled() -> None:
    """Raises ValueError where JAX is told not to compile: a run is compiled ahead, for its shapes."""
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]  # JAX defines it at run time.
        raise ValueError("JAX_DISABLE_JIT (jax_disable_jit) must be off for a run, which is compiled as a whole; to "
                         "look into a step, call morel_jax.training.step.train_step with it on.")


def build_layout(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> sharding.Layout:
    """The run's devices and what lies where on them.

    Args:
        config: checked.
        devices: to take in place of those of all processes.

    Raises:
        ValueError: the devices are not there, or do not divide what they are to work on together.
    """
    check_compiled()
    layout = sharding.Layout(sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices),
                             config.mesh.fsdp_min_size)
    field = "config.batch_size" if config.accumulate == 1 else "config.batch_size / config.accumulate"
    layout.check_batch(config.batch_size // config.accumulate, field)
    return layout


@dataclasses.dataclass(frozen=True)
class Sharded:
    """One run over the devices of a mesh: the batch is cut, and on demand (FSDP) the parameters.

    Attributes:
        layout: of the run's devices.
    """
    layout: sharding.Layout

    def compile(self, parts: Parts) -> tuple[jax.stages.Wrapped, Correct]:
        """(train_epoch, correct) of a run with ``parts``, jitted."""
        return compile_train_epoch(parts, self.layout), compile_correct(parts.model, parts.products, self.layout)

    def feed(self, split: Split, placement: str) -> DeviceFeed | HostFeed:
        """The feed of a run's training images; see :func:`~morel_jax.training.feed.build_feed`."""
        return build_feed(split, placement, self.layout.replicated, self.layout.batch(axis=1))

    def keys(self, seeds: Sequence[int], purpose: int) -> Key[Array, ""]:
        """The key of a purpose on every device; ``seeds`` has one entry."""
        words = jax.random.key_data(purpose_key(seeds[0], purpose))
        return jax.random.wrap_key_data(sharding.put(words, self.layout.replicated))

    def new_states(self, setup: Setup, seeds: Sequence[int], purpose: int) -> list[TrainState]:
        """A list with the state of a new run."""
        key = self.keys(seeds, purpose)
        return [setup.compile_new_state(key, self.layout)(key)]

    def like(self, state: TrainState, totals: Totals) -> tuple[TrainState, Totals]:
        """Shapes and shardings of a run's arrays, to read a checkpoint by."""
        return (self.layout.abstract(state, self.layout.state(state)),
                self.layout.abstract(totals, self.layout.replicated))

    def on_host(self, tree: _Tree) -> _Tree:
        """A run's arrays as ``Run`` keeps them: here as they are."""
        return tree

    def states(self, states: Sequence[TrainState]) -> TrainState:
        """What the programs take for a list with a run's state."""
        return states[0]

    def totals(self, totals: Sequence[Totals]) -> Totals:
        """The same for its Totals, as the compiled step gives them back: others would be one more program."""
        return jax.tree.map(lambda total: sharding.put(total, self.layout.replicated), totals[0])

    def hparams(self, hparams: Sequence[HParams]) -> HParams:
        """The same for its HParams."""
        return hparams[0]

    def orders(self, orders: Sequence[Int32[np.ndarray, "steps n"]]) -> Order:
        """The same for the order of its examples."""
        return orders[0]

    def stops(self, stop: int, start: int, living: Sequence[int]) -> ArrayLike:
        """The step to stop before."""
        del start, living
        return np.int32(stop)

    def fetch(self, tree: _Tree) -> list[_Tree]:
        """A list with a run's arrays, from what the programs gave."""
        return [tree]

    def mean(self, totals: Totals, living: Sequence[int]) -> Totals:
        """Totals to show."""
        del living
        return totals

    def first_bad_steps(self, totals: Totals) -> Int32[np.ndarray, "1"]:
        """The run's ``first_bad_step``; waits for the devices."""
        return np.asarray(totals.first_bad_step)[None]

    def accuracies(self, correct: Correct, states: TrainState, setup: Setup, keys: Key[Array, ""],
                   after_batch: Callable[[int], None]) -> list[dict[str, Any]]:
        """A list with the dict of accuracies on the validation split."""
        return [accuracies(correct, states.inference_variables(), setup.validation_attack,
                           setup.validation, keys, setup.config.validation.batch_size, after_batch, self.layout)]


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Many runs as one program: their arrays are stacked along a first axis, which is cut over the devices.

    Each device has as many slots, and no device waits for another within a program: there is no communication.

    Attributes:
        mesh: one axis, ``member``, over the devices of this process.
        mode: one of ``MODES``.
        members: how many runs there are. The last slots are filled with the last member. Compiled programs do not
            depend on it.
    """
    mesh: Mesh
    mode: str
    members: int = dataclasses.field(compare=False)
    layout: ClassVar[None] = None  # Each member lies whole on a device.

    @classmethod
    def over_local_devices(cls, members: int, mode: str | None = None,
                           devices: Sequence[jax.Device] | None = None) -> "Stacked":
        """The placement of ``members`` runs over all devices of this process.

        Args:
            members: how many.
            mode: of ``MODES``; None: the one supposed to be faster, which benchmarks/population.py compares.
            devices: to take in place of this process's.
        """
        devices = devices or jax.local_devices()
        mode = mode or ("sequential" if devices[0].platform == "cpu" else "vmapped")
        return cls(jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices), mode, members)

    @property
    def slots(self) -> int:
        """Members and filling."""
        return self.mesh.size * math.ceil(self.members / self.mesh.size)

    def _sharding(self, spec: P) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    def _filled(self, of_members: Sequence[_Tree]) -> list[_Tree]:
        return [*of_members, *[of_members[-1]] * (self.slots - self.members)]

    def _stack(self, trees: Sequence[_Tree]) -> _Tree:
        """One tree of arrays[slots, ...] from a list with a tree of NumPy arrays or numbers for each member."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *self._filled(trees))
        return jax.device_put(stacked, self._sharding(P(AXIS)))

    states = totals = hparams = _stack

    def orders(self, orders: Sequence[Int32[np.ndarray, "steps n"]]) -> Order:
        """What the feed takes for a list of orders."""
        return np.stack(self._filled(orders))

    def feed(self, split: Split, placement: str) -> DeviceFeed | HostFeed:
        """The feed of the members' training images; see :func:`~morel_jax.training.feed.build_feed`."""
        return build_feed(split, placement, self._sharding(P()), self._sharding(P(AXIS)))

    def keys(self, seeds: Sequence[int], purpose: int) -> Key[Array, " slots"]:
        """The members' keys of a purpose."""
        keys = [purpose_key(seed, purpose) for seed in seeds]
        return jax.device_put(jax.numpy.stack(self._filled(keys)), self._sharding(P(AXIS)))

    def new_states(self, setup: Setup, seeds: Sequence[int], purpose: int) -> list[TrainState]:
        """A list with the state of each new run, NumPy arrays."""
        keys = [purpose_key(seed, purpose) for seed in seeds]
        create = setup.compile_new_state(keys[0])
        return [jax.device_get(create(key)) for key in keys]

    def like(self, state: TrainState, totals: Totals) -> tuple[TrainState, Totals]:
        """Shapes of a run's arrays, to read a checkpoint by. On the host: a device has room for its own members."""
        host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), (state, totals))

    def on_host(self, tree: _Tree) -> _Tree:
        """A run's arrays as ``Run`` keeps them: NumPy arrays."""
        return jax.device_get(tree)

    def stops(self, stop: int, start: int, living: Sequence[int]) -> ArrayLike:
        """The step that each slot stops before; filling and diverged members take no step."""
        stops = np.full(self.slots, start, np.int32)
        stops[living] = stop
        return stops

    def fetch(self, tree: _Tree) -> list[_Tree]:
        """A list with each member's arrays. They are copies: the programs donate the devices' buffers."""
        whole = jax.tree.map(np.array, tree)
        return [jax.tree.map(lambda leaf, member=member: leaf[member, ...], whole) for member in range(self.members)]

    def mean(self, totals: Totals, living: Sequence[int]) -> Totals:
        """Totals to show: the mean over the living members."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[living].mean(), totals)

    def first_bad_steps(self, totals: Totals) -> Int32[np.ndarray, " slots"]:
        """The members' ``first_bad_step``; waits for the devices."""
        return np.asarray(totals.first_bad_step)

    def accuracies(self, correct: Correct, states: TrainState, setup: Setup, keys: Key[Array, " slots"],
                   after_batch: Callable[[int], None]) -> list[dict[str, Any]]:
        """A list with each member's dict of accuracies on the validation split."""
        found = accuracies(correct, states.inference_variables(), setup.validation_attack,
                           setup.validation, keys, setup.config.validation.batch_size, after_batch)
        return [{name: values[number] for name, values in found.items()} for number in range(self.members)]

    def compile(self, parts: Parts) -> tuple[jax.stages.Wrapped, Correct]:
        """(train, judge): ``train_epoch`` and ``build_correct`` of all members, jitted.

        Arguments and results have a first axis of slots, but for the validation's images, labels, index and attack, the
        data set on the device, and ``start``. A member whose ``stop`` is ``start`` keeps its state. State and totals
        are donated.
        """
        own, shared, platform = P(AXIS), P(), sharding.platform(self.mesh)

        def train(state: TrainState, totals: Totals, hparams: HParams, piece: Piece, key: Key[Array, " slots"],
                  start: Int[Array, ""], stop: Int[Array, " slots"]) -> tuple[TrainState, Totals]:
            is_shared = piece.rows is not None  # The data set; else each member's own examples.
            specs = dataclasses.replace(piece, images=shared if is_shared else own, labels=shared if is_shared else own,
                                        rows=own if is_shared else None, index=own)
            body = partial(_train_slots, parts=parts.on(platform), mode=self.mode)
            return jax.shard_map(body, mesh=self.mesh, in_specs=(own, own, own, specs, own, shared, own),
                                 out_specs=own)(state, totals, hparams, piece, key, start, stop)

        def judge(variables: PyTree, attack: Any, images: UInt8[Array, "n h w c"], labels: Labels,
                  index: Int[Array, " n"], key: Key[Array, " slots"]) -> _Right:
            body = partial(_judge_slots, correct=build_correct(parts.model, parts.products), mode=self.mode)
            return jax.shard_map(body, mesh=self.mesh, in_specs=(own, shared, shared, shared, shared, own),
                                 out_specs=own)(variables, attack, images, labels, index, key)

        stacked = self._sharding(own)
        return (jax.jit(train, out_shardings=stacked, donate_argnums=(0, 1),
                        compiler_options=compiler_options(parts, platform)),
                jax.jit(judge, out_shardings=stacked))


Placement = Sharded | Stacked


def _train_slots(state: TrainState, totals: Totals, hparams: HParams, piece: Piece, key: Key[Array, " slots"],
                 start: Int[Array, ""], stop: Int[Array, " slots"], *, parts: Parts,
                 mode: str) -> tuple[TrainState, Totals]:
    """``train_epoch`` of the slots of one device."""
    data = None if piece.rows is None else {"images": piece.images, "labels": piece.labels}
    if data is not None:
        piece = dataclasses.replace(piece, images=None, labels=None)

    def one(state: TrainState, totals: Totals, hparams: HParams, piece: Piece, key: Key[Array, ""],
            stop: Int[Array, ""]) -> tuple[TrainState, Totals]:
        if data is not None:
            piece = dataclasses.replace(piece, **data)
        return train_epoch(state, totals, hparams, piece, key, start, stop, parts=parts)

    def body(slot: Int[Array, ""], trained: tuple[TrainState, Totals]) -> tuple[TrainState, Totals]:
        given = jax.tree.map(lambda leaf: leaf[slot], (*trained, hparams, piece, key, stop))
        return jax.tree.map(lambda all_slots, new: all_slots.at[slot].set(new), trained, one(*given))

    if mode == "vmapped":
        return jax.vmap(one)(state, totals, hparams, piece, key, stop)
    return jax.lax.fori_loop(0, len(stop), body, (state, totals))


def _judge_slots(variables: PyTree, attack: Any, images: UInt8[Array, "n h w c"], labels: Labels,
                 index: Int[Array, " n"], key: Key[Array, " slots"], *, correct: Correct, mode: str) -> _Right:
    """Which examples the networks of one device classify right, clean and attacked."""
    def one(member: tuple[PyTree, Key[Array, ""]]) -> tuple[Mask, Mask]:
        own_variables, own_key = member
        return correct(own_variables, attack, images, labels, index, own_key)

    return jax.vmap(one)((variables, key)) if mode == "vmapped" else jax.lax.map(one, (variables, key))
