"""Twenty steps on meshes of fake devices: ``python -m tests.training.sharded_steps OUTPUT DTYPE``, an npz file."""
import dataclasses
import sys

import jax
import numpy as np

from morel_jax import sharding
from morel_jax.training.custom import NO_CUSTOM, CustomParts
from morel_jax.training.epoch import Piece, compile_train_epoch, empty_totals
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch
from tests.small import small_config, small_dataset
from tests.training.networks import Linen

STEPS, BATCH = 20, 16
MESHES = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 8), (4, 2), (2, 4)]
DTYPES = ("float32", "float64")
# Of a network that is not the library's, with BatchNorm of its own.
WRAPPED_MESHES = [(1, 1), (8, 1), (2, 4)]
# Ways to join three objectives, of which the devices see the whole batch's gradients and losses.
JOINED, JOINED_MESHES = ("upgrad", "famo"), [(1, 1), (8, 1), (2, 4)]


def name_of(dtype, data, fsdp):
    return f"{dtype}-{data}x{fsdp}"


def steps(data, fsdp, dtype, images, labels, custom=NO_CUSTOM, **changes):
    """(losses float[20], parameters float[*], shardings that are not whole) of one run."""
    config = small_config(batch_size=BATCH, **changes)
    parts = build_parts(config, 10, custom)
    if custom.model is None:
        parts = dataclasses.replace(parts, model=parts.model.clone(dtype=dtype))
    hparams = build_hparams(config, epoch=1)
    layout = sharding.Layout(sharding.make_mesh(data, fsdp), min_size=64)
    key = jax.device_put(jax.random.key(3), layout.replicated)
    state = create_state(parts, jax.random.key(0), images.shape[1:], hparams, average=False)
    state = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == np.float32 else a, state)
    state = jax.device_put(state, layout.state(state))
    cut = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    batch = Batch(*(jax.ShapeDtypeStruct((BATCH, *array.shape[1:]), array.dtype) for array in (images, labels, labels)))
    rows = np.arange(STEPS * BATCH, dtype=np.int32).reshape(STEPS, BATCH) % len(labels)
    rows = sharding.put(rows, layout.batch(axis=1))
    images, labels = (sharding.put(array, layout.replicated) for array in (images, labels))
    piece = Piece(images, labels, rows, rows)
    none = empty_totals(state, hparams, batch, key, parts=parts)
    epoch = compile_train_epoch(parts, layout)
    losses, programs = [], 0

    def count(event, seconds, **_):
        nonlocal programs
        programs += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    for step in range(STEPS):
        state, totals = epoch(state, none, hparams, piece, key, np.int32(step), np.int32(step + 1))
        losses.append(np.asarray(totals.sums["loss"]))
    jax.monitoring.unregister_event_duration_listener(count)
    assert programs == 1  # What comes out is laid out as what went in.
    assert cut == sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    return np.array(losses), np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]), cut


def runs(dtype):
    """(name, mesh, further arguments of :func:`steps`) of each run of that type."""
    for mesh in MESHES:
        yield name_of(dtype, *mesh), mesh, {}
    if dtype == "float32":
        for mesh in WRAPPED_MESHES:
            yield name_of("wrapped", *mesh), mesh, dict(custom=CustomParts(model=Linen(0.0), features="head"))
        return
    for name in JOINED:
        for mesh in JOINED_MESHES:
            yield name_of(name, *mesh), mesh, dict(morel__scalarization=name, morel__objectives="three",
                                                   morel__contrastive_weight=0.01)


def main(output, dtype):
    """Runs all meshes in one type."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", dtype == "float64")
    split = small_dataset().train
    found = {}
    for name, mesh, more in runs(dtype):
        for field, value in zip(("losses", "parameters", "cut"),
                                steps(*mesh, dtype, split.images, split.labels, **more), strict=True):
            found[f"{name}-{field}"] = value
    np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
