"""Checkpoints on disk: where they lie, what they say of themselves, and what is judged of them."""
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from morel_jax import manifest
from morel_jax.files import DamagedFileError, Fields, local_path, read_json

_Read = TypeVar("_Read")
# Two of `last`: should the newest be damaged, there is one before.
KEPT = {"last": 2, "best": 1}
# Counts changes in what a checkpoint holds; those before it was counted have none and are read alike.
FORMAT = 1


class CheckpointError(OSError):
    """A checkpoint could not be written, or is damaged."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint was written by a later version of this library. It is left as it is."""


class _NotOrbax(logging.Filter):
    """Drops what Orbax logs: each step of each save, and the errors that it also raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname


_NOT_ORBAX = _NotOrbax()


def orbax() -> ocp.AsyncCheckpointer:
    """Orbax's checkpointer of several items."""
    logging.getLogger("absl").addFilter(_NOT_ORBAX)  # Adding it again changes nothing.
    # Else threads wait for five minutes, and the program's end for them, where a folder cannot be made.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    composite = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(async_options=options))
    return ocp.AsyncCheckpointer(composite, async_options=options)


def folder_of(workdir: str | os.PathLike) -> Path:
    """The folder of a run's checkpoints, an absolute Path."""
    return local_path(workdir, "workdir").absolute() / "checkpoints"


def positions_in(folder: Path) -> list[int]:
    """Positions of the checkpoints in a folder, whole or not, rising."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def first_line(error: Exception) -> str:
    """An exception's type, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def damage_of(folder: Path, part: str = "") -> CheckpointError | None:
    """CheckpointError for a checkpoint whose files are not those that were written, or None."""
    problem = manifest.problem(folder, part) if folder.exists() else "it is not there"
    return CheckpointError(f"the checkpoint {folder} is damaged: {problem}.") if problem else None


def read_record(folder: Path) -> dict[str, Any]:
    """What was given to :meth:`Checkpoints.save` as the record; CheckpointError where it is not that."""
    path = folder / "record" / "metadata"
    fields: Fields = {"history": list, "best": (int, float), "seconds": (int, float)}
    try:
        record = read_json(path, "Remove this checkpoint.", fields)
    except (DamagedFileError, OSError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {first_line(error)}") from None
    if record.get("format", FORMAT) != FORMAT:
        raise NewerCheckpointError(f"the checkpoint {folder} has format {record['format']!r:.20}; this version of "
                                   f"morel_jax reads formats up to {FORMAT}. Install the version that wrote it, or a "
                                   "later one.")
    if not all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in record["history"]):
        raise CheckpointError(f"the checkpoint {folder} is damaged: {path} must have a history of objects with 'step'.")
    return {name: record[name] for name in fields}


def _of_newest(workdir: str | os.PathLike, which: str, read: Callable[[Path], _Read]) -> _Read:
    """``read(folder)`` of the newest checkpoint that counts; of the next where a run replaces it meanwhile."""
    if which not in KEPT:
        raise ValueError(f"which must be one of {', '.join(sorted(KEPT))}; got {which!r}.")
    directory = folder_of(workdir) / which
    while True:
        positions = positions_in(directory)
        if not positions:
            raise FileNotFoundError(f"no checkpoint in {directory}; train first, or give another workdir.")
        newest = directory / str(positions[-1])
        try:
            return read(newest)
        except Exception:  # Orbax has many.
            if newest.exists():
                raise


def load_record(workdir: str | os.PathLike, which: str) -> dict[str, Any]:
    """What the newest checkpoint says of itself; no arrays are read.

    Args:
        workdir: the run's folder.
        which: ``best`` or ``last``.

    Returns:
        ``step``, updates made before it; ``history``, as :func:`~morel_jax.training.fit` returns it, up to there;
        ``best``, the highest robust accuracy in it, -1 where there is none; ``seconds`` of training since its last
        line.

    Raises:
        FileNotFoundError: the run has no such checkpoint.
        CheckpointError: its record is damaged; the message names the file.
    """
    def read(folder: Path) -> dict[str, Any]:
        damage = damage_of(folder, "record/")
        if damage:
            raise damage
        record = read_record(folder)
        return {"step": int(folder.name) - len(record["history"])} | record

    return _of_newest(workdir, which, read)


def load_classifier(workdir: str | os.PathLike, which: str, variables: PyTree) -> dict[str, PyTree]:
    """Variables of the plain classifier that a run saved.

    Args:
        workdir: the run's folder.
        which: ``best`` or ``last``.
        variables: arrays or shapes of the classifier's variables.

    Returns:
        ``params`` and ``batch_stats``, on the default device but not committed to it.

    Raises:
        FileNotFoundError: the run has no such checkpoint.
        CheckpointError: it is damaged; the message names the file.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), variables)

    def read(folder: Path) -> dict[str, PyTree]:
        damage = damage_of(folder)
        if damage:
            raise damage
        read_record(folder)  # Says it where a later version wrote this.
        with contextlib.closing(orbax()) as reader:
            restored = reader.restore(folder, args=ocp.args.Composite(
                classifier=ocp.args.StandardRestore(variables)))["classifier"]
        # Orbax commits arrays to a device. Beside images that are not, the results would be, and JAX compiles every
        # function of images once more for those.
        return jax.tree.map(jnp.asarray, jax.device_get(restored))

    return _of_newest(workdir, which, read)
