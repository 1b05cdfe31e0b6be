"""Orbax checkpoints of a run: ``last``, from which it resumes, and ``best``, which is judged."""
import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from morel_jax.training.state import TrainState

# Two of `last`: should the newest be damaged, there is one before.
_KEPT = {"last": 2, "best": 1}


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


def _abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree)


def _manager(directory, which, read_only=False):
    # Orbax reports each step of each save; a run prints its own line.
    logging.getLogger("absl").setLevel(logging.ERROR)
    # Synchronous: the state is donated to the next step, and on a CPU the arrays Orbax writes are those very buffers.
    options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT[which], enable_async_checkpointing=False,
                                           read_only=read_only, create=not read_only)
    return ocp.CheckpointManager(Path(directory).absolute() / "checkpoints" / which, options=options)


class Checkpoints:
    """The two kinds of checkpoints in ``<workdir>/checkpoints``; a context manager that closes them.

    A checkpoint's number is the run's position: steps done plus validations done. It grows with either.
    """

    def __init__(self, workdir):
        self._managers = {which: _manager(workdir, which) for which in _KEPT}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for manager in self._managers.values():
            manager.close()

    def save(self, which, position, state, totals, record):
        """Writes a checkpoint; it counts only when it is whole.

        Args:
            which: ``last`` or ``best``.
            position: steps plus validations done.
            state: TrainState.
            totals: Totals of the epoch under way.
            record: plain values (JSON): the history and the best accuracy so far.
        """
        classifier, rest = _split(state)
        items = {"classifier": ocp.args.StandardSave(classifier), "record": ocp.args.JsonSave(record)}
        if which == "last":
            items["training"] = ocp.args.StandardSave({"rest": rest, "totals": totals})
        manager = self._managers[which]
        if position in manager.all_steps():
            # A `best` written just before a kill, and now by the resumed run again, with equal content.
            manager.delete(position)
        manager.save(position, args=ocp.args.Composite(**items), force=True)

    def restore(self, state, totals):
        """The newest ``last``.

        Args:
            state, totals: arrays or shapes of what was saved.

        Returns:
            (state, totals, record), or None where nothing was saved.
        """
        manager = self._managers["last"]
        position = manager.latest_step()
        if position is None:
            return None
        classifier, rest = _split(state)
        items = manager.restore(position, args=ocp.args.Composite(
            classifier=ocp.args.StandardRestore(_abstract(classifier)),
            training=ocp.args.StandardRestore(_abstract({"rest": rest, "totals": totals})),
            record=ocp.args.JsonRestore()))
        training = items["training"]
        state = _join(items["classifier"], training["rest"], average=state.average is not None)
        return state, training["totals"], items["record"]


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
    """
    directory = Path(workdir).absolute() / "checkpoints" / which
    if which not in _KEPT:
        raise ValueError(f"which must be one of {', '.join(sorted(_KEPT))}; got {which!r}.")
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint in {directory}; train first, or give another workdir.")
    with _manager(workdir, which, read_only=True) as manager:
        position = manager.latest_step()
        if position is None:
            raise FileNotFoundError(f"no checkpoint in {directory}; train first, or give another workdir.")
        return manager.restore(position, args=ocp.args.Composite(
            classifier=ocp.args.StandardRestore(_abstract(variables))))["classifier"]
