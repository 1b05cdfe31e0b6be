"""Orbax checkpoints of a run: ``last``, from which it resumes, and ``best``, which is judged."""
import concurrent.futures
import contextlib
import logging
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from morel_jax import sharding
from morel_jax.training import checksums
from morel_jax.training.state import TrainState

# Two of `last`: should the newest be damaged, there is one before.
_KEPT = {"last": 2, "best": 1}
# What Orbax and the file system raise where something cannot be written.
_WRITE_ERRORS = (OSError, ValueError, RuntimeError)
_logger = logging.getLogger(__name__)


class CheckpointError(OSError):
    """A checkpoint could not be written, or is damaged."""


def _split(state):
    """(variables of the judged classifier, the rest), so that judging reads nothing else."""
    rest = {"step": state.step, "opt_state": state.opt_state}
    if state.average is None:
        rest["embedding"] = state.params.get("embedding", {})
    else:
        rest |= {"params": state.params, "batch_stats": state.batch_stats}
    return state.inference_variables(), rest


def _join(classifier, rest, average):
    if average:
        return TrainState(**rest, average=classifier)
    params = {"classifier": classifier["params"]}
    embedding = rest.pop("embedding")
    if embedding:
        params["embedding"] = embedding
    return TrainState(**rest, params=params, batch_stats=classifier["batch_stats"])


def _manager(directory, which, read_only=False):
    # Orbax reports each step of each save, and its errors, which it also raises; a run prints its own lines.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEPT[which], read_only=read_only, create=not read_only,
        # What a kill left half written.
        cleanup_tmp_directories=not read_only,
        # Else it reads every checkpoint's metadata at once, and fails where one is damaged.
        lightweight_initialize=True,
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=which))
    return ocp.CheckpointManager(Path(directory).absolute() / "checkpoints" / which, options=options)


def _copied(tree):
    # The state is donated to the next step, and on a CPU the arrays that Orbax writes are those very buffers.
    # NumPy arrays are not, and a copy of one would be an array of this process's own, which Orbax refuses of several.
    return ocp.args.StandardSave(jax.tree.map(lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf,
                                              tree))


def _first_line(error):
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _damage(manager, position):
    """CheckpointError for a checkpoint whose files are not those that were written; None where nothing is known."""
    folder = Path(manager.directory) / str(position)
    problem = checksums.problem(folder) if folder.exists() else "it is not there"
    return CheckpointError(f"the checkpoint {folder} is damaged: {problem}.") if problem else None


def _read(manager, position, **items):
    """The items of a checkpoint without known damage; of one without checksums, what Orbax can read."""
    folder = Path(manager.directory) / str(position)
    try:
        return manager.restore(position, args=ocp.args.Composite(**items))
    except Exception as error:  # Whatever Orbax's many readers raise.
        if checksums.exist(folder):
            raise  # It is whole: this is no damage.
        raise CheckpointError(f"the checkpoint {folder} is damaged: {_first_line(error)}.") from error


class Checkpoints:
    """The two kinds of checkpoints in ``<workdir>/checkpoints``; a context manager that ends with all of them on disk.

    A checkpoint's number is the run's position: steps done plus validations done. It grows with either.

    They are written while the run goes on, one at a time and in the order of the calls. Orbax makes each under another
    name and renames it when it is whole; then sizes and hashes of its files are added.
    """

    def __init__(self, workdir):
        self._folder = Path(workdir).absolute() / "checkpoints"
        self._managers = {which: _manager(workdir, which) for which in _KEPT}
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checksums")
        self._under_way = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            for manager in self._managers.values():
                manager.close()

    def save(self, which, position, state, totals, record):
        """Begins to write a checkpoint, once the one before is on disk; it counts only when it is whole.

        Until then there is a copy of it on the devices.

        Args:
            which: ``last`` or ``best``.
            position: steps plus validations done.
            state: TrainState.
            totals: Totals of the epoch under way.
            record: plain values (JSON): the history and the best accuracy so far.

        Raises:
            CheckpointError: this one, or the one before, could not be written.
        """
        self.wait()
        manager = self._managers[which]
        if position in manager.all_steps():
            if which == "last":
                return  # What the run resumed from, or what it has just saved.
            # A `best` written before a kill, and now again by the run that went on from a `last` before it.
            manager.delete(position)
        classifier, rest = _split(state)
        items = {"classifier": _copied(classifier), "record": ocp.args.JsonSave(record)}
        if which == "last":
            items["training"] = _copied({"rest": rest, "totals": totals})
        try:
            manager.save(position, args=ocp.args.Composite(**items), force=True)
        except _WRITE_ERRORS as error:
            raise self._not_written(which, position, error) from error
        self._under_way = which, position, self._writer.submit(self._finish, which, position)

    def _finish(self, which, position):
        self._managers[which].wait_until_finished()
        if sharding.is_first_process():
            checksums.write(self._folder / which / str(position))

    def _not_written(self, which, position, error):
        return CheckpointError(f"the checkpoint {self._folder / which / str(position)} could not be written "
                               f"({_first_line(error)}); the same command goes on from the one before.")

    def wait(self):
        """Returns when what was saved is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._under_way is None:
            return
        (which, position, written), self._under_way = self._under_way, None
        error = written.exception()
        # Orbax raises an error once in every thread that waits, and `close` waits in this one.
        with contextlib.suppress(*_WRITE_ERRORS):
            self._managers[which].wait_until_finished()
        if isinstance(error, _WRITE_ERRORS):
            raise self._not_written(which, position, error) from error
        if error is not None:
            raise error

    def positions(self):
        """Positions of ``last`` that are there, rising."""
        return sorted(self._managers["last"].all_steps())

    def delete_after(self, position):
        """Removes what ``last`` has of later positions."""
        for later in self.positions():
            if later > position:
                self._managers["last"].delete(later)

    def restore(self, state, totals):
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
                 "training": ocp.args.StandardRestore({"rest": rest, "totals": totals}),
                 "record": ocp.args.JsonRestore()}
        damaged, found, position = {}, None, self._newest(math.inf)
        while found is None and position >= 0:
            found, error = self._attempt(position, items)
            if found is None:
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
        training = found["training"]
        state = _join(found["classifier"], training["rest"], average=state.average is not None)
        return state, training["totals"], found["record"]

    def _newest(self, below):
        """The newest ``last`` before a position that any process sees; -1 where there is none."""
        return int(*sharding.agree([max((one for one in self.positions() if one < below), default=-1)]))

    def _attempt(self, position, items):
        """(what a ``last`` holds, None), or (None, CheckpointError); the same kind in every process.

        Before they read, the processes agree on whether it is whole: on a network's file system one may see less than
        another, and who read alone would wait for the others for ever.
        """
        manager, found = self._managers["last"], None
        error = _damage(manager, position)
        if not any(sharding.agree([error is not None])):
            try:
                found = _read(manager, position, **items)
            except CheckpointError as failure:
                error = failure
            if not any(sharding.agree([error is not None])):
                return found, None
        return None, error or CheckpointError(f"the checkpoint {Path(manager.directory) / str(position)} is damaged: "
                                              "another process cannot read it.")

    def _move_away(self, damaged):
        """Makes room for saving at these positions again: {position of a ``last``: error}."""
        if not damaged:
            return
        sharding.agree([0])  # Every process has read what it needs.
        if sharding.is_first_process():
            for position, error in damaged.items():
                target = self._folder / "damaged" / f"last-{position}"
                target.parent.mkdir(exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)
                with contextlib.suppress(FileNotFoundError):  # Another process saw what is not there for this one.
                    (self._folder / "last" / str(position)).rename(target)
                _logger.warning("%s The run goes on from the checkpoint before; this one is now %s.", error, target)
        sharding.agree([0])
        self._managers["last"].reload()

    def _report_best(self):
        """Says early what :func:`load_classifier` would say when the run is over."""
        position = self._managers["best"].latest_step()
        if position is None or not sharding.is_first_process():
            return
        folder = self._folder / "best" / str(position)
        problem = checksums.problem(folder)
        if problem:
            _logger.warning("the checkpoint %s is damaged: %s. Only an epoch that is better still will replace it.",
                            folder, problem)


def load_classifier(workdir, which, variables):
    """Variables of the plain classifier that a run saved.

    Args:
        workdir: the run's folder.
        which: ``best`` or ``last``.
        variables: arrays or shapes of the classifier's variables.

    Returns:
        dict with ``params`` and ``batch_stats``.

    Raises:
        FileNotFoundError: the run has no such checkpoint.
        CheckpointError: it is damaged; the message names the file.
    """
    directory = Path(workdir).absolute() / "checkpoints" / which
    if which not in _KEPT:
        raise ValueError(f"which must be one of {', '.join(sorted(_KEPT))}; got {which!r}.")
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint in {directory}; train first, or give another workdir.")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), variables)
    with _manager(workdir, which, read_only=True) as manager:
        position = manager.latest_step()
        if position is None:
            raise FileNotFoundError(f"no checkpoint in {directory}; train first, or give another workdir.")
        damage = _damage(manager, position)
        if damage:
            raise damage
        return _read(manager, position, classifier=ocp.args.StandardRestore(variables))["classifier"]
