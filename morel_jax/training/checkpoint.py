"""Orbax checkpoints of a run: ``last``, from which it resumes, and ``best``, which is judged."""
import concurrent.futures
import contextlib
import dataclasses
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from morel_jax import manifest, sharding
from morel_jax.files import make_folder, sync
from morel_jax.training import saved
from morel_jax.training.epoch import Totals
from morel_jax.training.saved import CheckpointError, NewerCheckpointError
from morel_jax.training.state import TrainState

# How the names end of what is being written or removed.
_UNFINISHED = ".tmp"
# What Orbax and the file system raise where something cannot be written.
_WRITE_ERRORS = (OSError, ValueError, RuntimeError)
_Restored = tuple[dict[str, PyTree], dict[str, Any]]  # (arrays, record)
_logger = logging.getLogger(__name__)


def _split(state: TrainState) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """(variables of the judged classifier, the rest), so that judging reads nothing else."""
    # By name, so that a field which the state gets one day is saved too; and where it is None, as before it was there.
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)
            if field.name not in ("params", "batch_stats", "average") and getattr(state, field.name) is not None}
    if state.average is None:
        rest["embedding"] = state.params.get("embedding", {})
    else:
        rest |= {"params": state.params, "batch_stats": state.batch_stats}
    return state.inference_variables(), rest


def _join(like: TrainState, classifier: dict[str, PyTree], rest: dict[str, PyTree]) -> TrainState:
    """The inverse of :func:`_split`; ``like`` is a state of the same fields."""
    if like.average is not None:
        return like.replace(**rest, average=classifier)
    embedding = rest.pop("embedding")
    params = {"classifier": classifier["params"]} | ({"embedding": embedding} if embedding else {})
    return like.replace(**rest, params=params, batch_stats=classifier["batch_stats"])


def _remove(folder: Path) -> None:
    # Under another name first: a kill in the midst of it leaves no half of a checkpoint.
    trash = folder.with_name(f"{folder.name}.removed{_UNFINISHED}")
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _copied(tree: PyTree) -> ocp.args.StandardSave:
    """A copy to write: the state is donated to the next step, and on a CPU what Orbax writes are those very buffers."""
    def copied(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf  # NumPy arrays are not donated.
        if jax.process_count() == 1 and leaf.is_fully_replicated:
            # Orbax has every device write a slice of what all have, and compiles one for each shape and device. Of
            # several processes it refuses an array of one's own.
            leaf = leaf.addressable_data(0)
        return jnp.copy(leaf)

    return ocp.args.StandardSave(jax.tree.map(copied, tree))


class Checkpoints:
    """The two kinds of checkpoints in ``<workdir>/checkpoints``; a context manager that ends with all of them on disk.

    A checkpoint's number is the run's position: steps done plus validations done. It grows with either.

    They are written while training continues, one at a time and in the order of the calls. Each is made under another
    name. Once Orbax has written it, sizes and hashes of its files are added, all of it is brought to the disk, and it
    gets its own name; only then are older ones removed. So what has a number as its name is whole, or was damaged.
    """

    def __init__(self, workdir: str | os.PathLike) -> None:
        self._folder = saved.folder_of(workdir)
        if sharding.is_first_process():
            for which in saved.KEPT:
                make_folder(self._folder / which)
                for path in (self._folder / which).glob("*tmp*"):  # What a kill left, here or in Orbax.
                    shutil.rmtree(path, ignore_errors=True)
        self._positions = {which: saved.positions_in(self._folder / which) for which in saved.KEPT}
        self._orbax = saved.orbax()
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._under_way: tuple[str, int, concurrent.futures.Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._orbax.close()

    def _path(self, which: str, position: int, ending: str = "") -> Path:
        return self._folder / which / f"{position}{ending}"

    def save(self, which: str, position: int, state: TrainState, totals: Totals, record: dict[str, Any],
             announce: Callable[[], None] | None = None) -> None:
        """Begins to write a checkpoint, once the one before is on disk; it counts only when it is whole.

        Until then there is a copy of it on the devices.

        Args:
            which: ``last`` or ``best``.
            position: steps plus validations done.
            state: of the run.
            totals: of the epoch under way.
            record: plain values (JSON): ``history`` (list of dicts with ``step``), ``best`` and ``seconds``.
            announce: called without arguments, in another thread, once the checkpoint counts; or None.

        Raises:
            CheckpointError: this one, or the one before, could not be written.
        """
        self.wait()
        if which == "last" and position in self._positions[which]:
            return  # What the run resumed from, or what it has just saved.
        classifier, rest = _split(state)
        items = {"classifier": _copied(classifier), "record": ocp.args.JsonSave(record | {"format": saved.FORMAT})}
        if which == "last":
            items["training"] = _copied({"rest": rest, "totals": totals})
        try:
            self._orbax.save(self._path(which, position, _UNFINISHED), args=ocp.args.Composite(**items), force=True)
        except _WRITE_ERRORS as error:
            raise self._not_written(which, position, error) from error
        self._under_way = which, position, self._writer.submit(self._finish, which, position, announce)

    def _finish(self, which: str, position: int, announce: Callable[[], None] | None) -> None:
        try:
            self._orbax.wait_until_finished()
            if sharding.is_first_process():
                self._commit(which, position)
        except _WRITE_ERRORS as error:
            raise self._not_written(which, position, error) from error
        if announce is not None:
            announce()

    def _commit(self, which: str, position: int) -> None:
        """Gives what Orbax has written the name by which it counts, and removes what it replaces."""
        written, target = self._path(which, position, _UNFINISHED), self._path(which, position)
        manifest.write(written)
        if target.exists():
            # A `best` written before a kill, and now again by the run that went on from a `last` before it.
            _remove(target)
        written.rename(target)
        sync(target.parent)
        for older in saved.positions_in(target.parent)[:-saved.KEPT[which]]:
            _remove(self._path(which, older))

    def _not_written(self, which: str, position: int, error: Exception) -> CheckpointError:
        return CheckpointError(f"the checkpoint {self._path(which, position)} could not be written "
                               f"({saved.first_line(error)}); the same command resumes from the one before.")

    def wait(self) -> None:
        """Returns when what was saved is on disk, and announced.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._under_way is None:
            return
        (which, position, written), self._under_way = self._under_way, None
        written.result()
        # Not from the folder: on a network's file system another process may see it later.
        self._positions[which] = sorted({*self._positions[which], position})[-saved.KEPT[which]:]

    def positions(self) -> list[int]:
        """Positions of ``last`` that are there, rising."""
        return list(self._positions["last"])

    def delete_after(self, position: int) -> None:
        """Removes what ``last`` has of later positions."""
        for later in self.positions():
            if later > position:
                _remove(self._path("last", later))
                self._positions["last"].remove(later)

    def restore(self, state: TrainState, totals: Totals) -> tuple[TrainState, Totals, dict[str, Any]] | None:
        """The newest ``last`` that is whole; newer ones that are not are reported and moved to ``checkpoints/damaged``.

        Args:
            state, totals: shapes of what was saved (``jax.ShapeDtypeStruct``), with the shardings to give it.

        Returns:
            (state, totals, record), or None where nothing was saved.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged; they stay as they are.
        """
        classifier, rest = _split(state)
        items = {"classifier": ocp.args.StandardRestore(classifier),
                 "training": ocp.args.StandardRestore({"rest": rest, "totals": totals})}
        damaged: dict[int, CheckpointError] = {}
        found, position = None, self._newest(math.inf)
        while found is None and position >= 0:
            found, error = self._attempt(position, items)
            if error is not None:
                damaged[position] = error
                position = self._newest(position)
        if found is None and damaged:
            raise CheckpointError(
                f"no checkpoint in {self._folder / 'last'} can be used; put back a copy of one, or give another "
                "workdir to begin anew:\n" + "\n".join(f"  {error}" for error in damaged.values()))
        if found is None:
            return None
        self._move_away(damaged)
        self._report_best()
        restored, record = found
        training = restored["training"]
        state = _join(state, restored["classifier"], training["rest"])
        return state, training["totals"], record

    def _newest(self, below: float) -> int:
        """The newest ``last`` before a position that any process sees; -1 where there is none."""
        return int(*sharding.agree([max((one for one in self.positions() if one < below), default=-1)]))

    def _attempt(self, position: int, items: dict[str, Any]) -> tuple[_Restored | None, CheckpointError | None]:
        """((arrays, record) of a ``last``, None), or (None, CheckpointError); the same kind in every process.

        Before they read arrays, the processes agree on whether it is whole: on a network's file system one may see less
        than another, and who read alone would wait for the others for ever.
        """
        folder, record = self._path("last", position), {}
        error = saved.damage_of(folder)
        try:
            record = {} if error else saved.read_record(folder)
        except NewerCheckpointError:
            raise
        except CheckpointError as failure:
            error = failure
        if any(sharding.agree([error is not None])):
            return None, error or CheckpointError(f"the checkpoint {folder} is damaged: another process cannot read "
                                                  "it.")
        return (self._orbax.restore(folder, args=ocp.args.Composite(**items)), record), None

    def _move_away(self, damaged: Mapping[int, CheckpointError]) -> None:
        """Makes room for saving at these positions again: {position of a ``last``: error}."""
        if not damaged:
            return
        sharding.agree([0])  # Every process has read what it needs.
        if sharding.is_first_process():
            for position, error in damaged.items():
                target = self._folder / "damaged" / f"last-{position}"
                make_folder(target.parent)
                shutil.rmtree(target, ignore_errors=True)
                with contextlib.suppress(FileNotFoundError):  # Another process saw what is not there for this one.
                    self._path("last", position).rename(target)
                _logger.warning("%s The run resumes from the checkpoint before; this one is now %s.", error, target)
        sharding.agree([0])
        self._positions["last"] = [position for position in self.positions() if position not in damaged]

    def _report_best(self) -> None:
        """Says early what :func:`load_classifier` would say when the run is over."""
        if not self._positions["best"] or not sharding.is_first_process():
            return
        damage = saved.damage_of(self._path("best", self._positions["best"][-1]))
        if damage:
            _logger.warning("%s Only an epoch that is better still will replace it.", damage)
