"""What a run will need, from compiling its step without data."""
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from ml_collections import ConfigDict

from morel_jax.configuration import check
from morel_jax.sharding import Layout
from morel_jax.targets import hlo, kernels, roofline
from morel_jax.targets.collectives import collectives
from morel_jax.targets.devices import chip_of, open_target
from morel_jax.targets.flops import count_flops
from morel_jax.targets.report import DryRun
from morel_jax.training.epoch import compile_train_epoch
from morel_jax.training.feed import abstract_piece
from morel_jax.training.fit import placement_of
from morel_jax.training.members import build_members
from morel_jax.training.placement import AXIS, Placement, Sharded, Stacked, build_layout
from morel_jax.training.setup import Setup, setup
from morel_jax.training.step import train_step


def lower_step(setup: Setup, layout: Layout) -> jax.stages.Lowered:
    """The program that a run goes through its epochs with, lowered for shapes alone.

    Args:
        setup: of the run; may be blank.
        layout: of the run.

    Returns:
        A loop of unknown length, in which one turn is a step.
    """
    state, hparams, _, key = setup.step_arguments
    piece = abstract_piece(setup.train, setup.steps_per_epoch, setup.config.batch_size, setup.config.data.placement,
                           layout.replicated, layout.batch(axis=1))
    return compile_train_epoch(setup.parts, layout).lower(
        layout.abstract(state, layout.state(state)), layout.abstract(setup.no_totals(layout), layout.replicated),
        hparams, piece, layout.abstract(key, layout.replicated), np.int32(0), np.int32(1))


def lower_population(setup: Setup, placement: Stacked) -> jax.stages.Lowered:
    """:func:`lower_step` of a population.

    Args:
        setup: of the members; may be blank.
        placement: of the members.
    """
    shared, own = NamedSharding(placement.mesh, P()), NamedSharding(placement.mesh, P(AXIS))

    def stacked(tree: PyTree) -> PyTree:
        def stack(leaf: Any) -> jax.ShapeDtypeStruct:
            dtype = leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.canonicalize_dtype(type(leaf))
            return jax.ShapeDtypeStruct((placement.slots, *np.shape(leaf)), dtype, sharding=own)

        return jax.tree.map(stack, tree)

    state, hparams, _, key = setup.step_arguments
    piece = abstract_piece(setup.train, setup.steps_per_epoch, setup.config.batch_size, setup.config.data.placement,
                           shared, shared)
    # The data set is the members' together; streamed examples are each one's own.
    if piece.rows is None:
        piece = stacked(piece)
    else:
        piece = piece.replace(rows=stacked(piece.rows), index=stacked(piece.index))
    train, _ = placement.compile(setup.parts)
    return train.lower(stacked(state), stacked(setup.no_totals()), stacked(hparams), piece, stacked(key), np.int32(0),
                       np.ones(placement.slots, np.int32))


def _command_buffers(folder: Path) -> dict[str, int] | None:
    """Counts of the launches that XLA printed into ``folder``; see :class:`DryRun`. None where it printed none."""
    # Where there are two lists, the one after XLA's last passes has them as they are.
    printed = max(folder.glob("*thunk_sequence*.txt"), default=None,
                  key=lambda path: ("after_thunk_passes" in path.name, path.stat().st_size))
    if printed is None:
        return None
    count = outside = 0
    buffer_depth = None
    for line in printed.read_text().splitlines():
        found = re.match(r"( *)\d+: k(\w+)", line)
        if not found:
            continue
        depth, name = len(found[1]), found[2]
        if buffer_depth is not None and depth > buffer_depth:
            continue
        buffer_depth = depth if name == "CommandBuffer" else None
        count += name == "CommandBuffer"
        outside += name not in ("CommandBuffer", "While", "Conditional", "Sequential")
    return {"count": count, "operations_outside": outside}


def measure(lower: Callable[[], jax.stages.Lowered], device: jax.Device, attack: bool = True,
            whole: bool = False) -> dict[str, Any]:
    """Compiles a program and counts.

    Args:
        lower: makes the program.
        device: one of those that it is for.
        attack: whether its step has an attack.
        whole: whether a step is a whole run; else it is one turn of the program's outermost loop.

    Returns:
        Fields of :class:`DryRun`.
    """
    chip, began = chip_of(device), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        is_gpu = device.platform == "gpu"
        program = lower().compile(compiler_options={"xla_dump_to": folder} if is_gpu else None)
        seconds = time.monotonic() - began
        command_buffers = _command_buffers(Path(folder)) if is_gpu else None
    module = hlo.parse(program.as_text() or "")
    memory: Any = program.memory_analysis()  # Each platform has a class of its own.
    executions = kernels.launched(module)
    step = executions if whole else kernels.of_step(executions)
    return dict(
        kernels=kernels.count_kernels(module, step, attack),
        bytes_accessed=sum(one.count * roofline.moved_bytes(module, one) for one in step),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        collectives=tuple(collectives(module)),
        compile_seconds=seconds,
        command_buffers=command_buffers,
        chip=chip,
        estimate=roofline.estimate(module, step, chip) if chip else None,
    )


def count_parameters(params: PyTree) -> int:
    """How many numbers a tree of arrays or shapes has."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _dry_run(config: ConfigDict, target: str | None, placement: Placement, blank: Setup,
             lower: Callable[[], jax.stages.Lowered], members: int = 1) -> DryRun:
    mesh = placement.layout.mesh if isinstance(placement, Sharded) else placement.mesh
    params = blank.step_arguments[0].params
    shape = "x".join(map(str, blank.image_shape))
    return DryRun(
        title=f"{config.model.name}, {config.method}, {config.data.name} {shape}, batch {config.batch_size}"
              + (f", {members} members" if members > 1 else ""),
        target=target,
        devices=(mesh.size, mesh.devices.flat[0].device_kind),
        mesh={axis: size for axis, size in mesh.shape.items()},
        classifier_parameters=count_parameters(params["classifier"]),
        embedding_parameters=count_parameters(params.get("embedding", {})),
        flops=members * count_flops(partial(train_step, parts=blank.parts), *blank.step_arguments),
        batch_size=members * config.batch_size,
        **measure(lower, mesh.devices.flat[0], "adversarial" in blank.parts.passes),
    )


def dry_run(config: ConfigDict, target: str | None = None) -> DryRun:
    """Compiles the step of a run for its devices, without its data set and without writing anything.

    Of ``config.data.extra`` the file is read, as only that tells how many images it adds.

    Args:
        config: with every field of ``morel_jax.configuration.defaults()``.
        target: what to compile for, see :func:`~morel_jax.targets.devices.open_target`; None: the devices at hand.

    Returns:
        Memory, operations, bytes and collectives are those of the program that XLA makes for this platform; on another
        they differ. Parameters and FLOPs are the same everywhere.

    Raises:
        ValueError: a config that cannot work, a data set of unknown shape, an unknown target, or devices that are not
            there.
        FileNotFoundError: there is no file ``config.data.extra``.
        ImportError: the target's compiler is not installed.
    """
    check(config)
    placement = Sharded(build_layout(config, None if target is None else open_target(target)))
    blank = setup(config, blank=True)
    return _dry_run(config, target, placement, blank, lambda: lower_step(blank, placement.layout))


def dry_run_population(config: ConfigDict, settings: Sequence[dict[str, Any]], mode: str | None = None,
                       target: str | None = None) -> DryRun:
    """:func:`dry_run` of the program that trains a population; a step is one of every member.

    Args:
        config, settings, mode: as in :func:`morel_jax.training.fit_population`.
        target: as in :func:`dry_run`.
    """
    members = build_members(config, settings)
    placement = placement_of(members, mode, devices=None if target is None else open_target(target))
    config = members[0].config
    blank = setup(config, blank=True)
    lower = partial(lower_step, blank, placement.layout) if isinstance(placement, Sharded) else partial(
        lower_population, blank, placement)
    return _dry_run(config, target, placement, blank, lower, len(members))
