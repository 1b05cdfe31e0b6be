"""What a run will need, from compiling its step without data."""
import dataclasses
from functools import partial

import jax
import numpy as np

from morel_jax.configuration import check
from morel_jax.targets.collectives import Collective, collectives
from morel_jax.targets.flops import count_flops
from morel_jax.training.feed import abstract_piece
from morel_jax.training.placement import build_layout
from morel_jax.training.setup import setup
from morel_jax.training.step import compile_train_epoch, train_step


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What a run's compiled program is and needs.

    Attributes:
        title: network, method, data set and batch.
        devices: what it was compiled for, and the mesh's axes.
        classifier_parameters, embedding_parameters: how many; the second only in training.
        flops: of a step's matrix products and convolutions, over all devices; see
            :func:`~morel_jax.targets.flops.count_flops`.
        batch_size: images of a step.
        bytes_accessed: that a step reads and writes on one device as XLA counts them: the body of each loop once, the
            attack's too.
        arguments, outputs, temporary, aliased: bytes on one device: of the program's arguments (state and data), of
            its results, of what it needs meanwhile, and of results that take arguments' places.
        collectives: of a step, for one device.
    """
    title: str
    devices: str
    classifier_parameters: int
    embedding_parameters: int
    flops: int
    batch_size: int
    bytes_accessed: int
    arguments: int
    outputs: int
    temporary: int
    aliased: int
    collectives: tuple[Collective, ...]

    @property
    def peak(self):
        """Bytes that one device must have for the program."""
        return self.arguments + self.outputs + self.temporary - self.aliased

    def to_text(self):
        """A short table for people; MiB are 2**20 bytes."""
        embedding = f" + {self.embedding_parameters:,} embedding space" if self.embedding_parameters else ""
        rows = [
            ("compiled for", self.devices),
            ("parameters", f"{self.classifier_parameters:,} classifier{embedding}"),
            ("FLOPs", f"{self.flops:.4g} per step, {self.flops / self.batch_size:.4g} per image, in products and "
                      "convolutions; a multiply-add is 2"),
            ("bytes accessed", f"{_mib(self.bytes_accessed)} per device, each loop's body counted once"),
            ("peak memory", f"{_mib(self.peak)} per device: arguments {_mib(self.arguments)}, temporary "
                            f"{_mib(self.temporary)}, results in neither {_mib(self.outputs - self.aliased)}"),
        ]
        for kind, group_size in sorted({(one.kind, one.group_size) for one in self.collectives}):
            same = [one for one in self.collectives if (one.kind, one.group_size) == (kind, group_size)]
            rows.append((kind, f"{_mib(sum(one.count * one.bytes for one in same))} a step in "
                               f"{sum(one.count for one in same):,} exchanges of {group_size} devices"))
        if not self.collectives:
            rows.append(("collectives", "none"))
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.title, *(f"{name:{width}}  {value}" for name, value in rows)])


def _mib(size):
    return f"{size / 2**20:,.2f} MiB"


def _count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def compile_step(setup, layout):
    """The program that a run goes through its epochs with, compiled for shapes alone.

    Args:
        setup: the run's Setup, which may be blank.
        layout: the run's :class:`~morel_jax.sharding.Layout`.

    Returns:
        ``jax.stages.Compiled``; a loop of unknown length, in which one turn is a step.
    """
    state, hparams, _, key = setup.step_arguments
    piece = abstract_piece(setup.train, setup.steps_per_epoch, setup.config.batch_size, setup.config.data.placement,
                           layout.replicated, layout.batch(axis=1))
    return compile_train_epoch(setup.parts, layout).lower(
        layout.abstract(state, layout.state(state)), layout.abstract(setup.no_totals(layout), layout.replicated),
        hparams, piece, layout.abstract(key, layout.replicated), np.int32(0), np.int32(1)).compile()


def dry_run(config):
    """Compiles the step of a run on its devices, without its data set and without writing anything.

    Of ``config.data.extra`` the file is read, as only that tells how many images it adds.

    Args:
        config: ConfigDict with every field of ``morel_jax.configuration.defaults()``.

    Returns:
        :class:`DryRun`. Memory, bytes and collectives are those of the program that XLA makes for this platform; on
        another they differ. Parameters and FLOPs are the same everywhere.

    Raises:
        ValueError: a config that cannot work, a data set of unknown shape, or devices that are not there.
        FileNotFoundError: there is no file ``config.data.extra``.
    """
    check(config)
    layout = build_layout(config)
    blank = setup(config, blank=True)
    program = compile_step(blank, layout)
    memory = program.memory_analysis()
    params = blank.step_arguments[0].params
    shape, axes = "x".join(map(str, blank.image_shape)), layout.mesh.shape.items()
    return DryRun(
        title=f"{config.model.name}, {config.method}, {config.data.name} {shape}, batch {config.batch_size}",
        devices=f"{layout.devices} {layout.mesh.devices.flat[0].platform} (mesh: "
                f"{' x '.join(f'{axis} {size}' for axis, size in axes)})",
        classifier_parameters=_count(params["classifier"]),
        embedding_parameters=_count(params.get("embedding", {})),
        flops=count_flops(partial(train_step, parts=blank.parts), *blank.step_arguments),
        batch_size=config.batch_size,
        bytes_accessed=int(program.cost_analysis()["bytes accessed"]),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        collectives=tuple(collectives(program.as_text())),
    )
