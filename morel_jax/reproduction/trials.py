"""The runs and evaluations that tables and figures need, and which of them the reproduction's folder has."""
import dataclasses
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from morel_jax.evaluation.summary import read_summary
from morel_jax.files import DamagedFileError, local_path
from morel_jax.reproduction.grid import SURROGATE_METHOD, Family, Grid, Network, protocol
from morel_jax.reproduction.paper import Cell, printed
from morel_jax.training.members import Member
from morel_jax.training.saved import CheckpointError, load_record
from morel_jax.training.workdir import load_config, load_divergence, open_sweep, write_metrics

HEAT_MAP = "heat_map"
SURROGATE_CHECKPOINT = STUDY_CHECKPOINT = "last"
_REMEDY = "Delete it, and give the command again."


@dataclasses.dataclass(frozen=True)
class Trial:
    """One network trained with one seed; ``member`` has the run's config, ``folder`` is the run's."""
    network: Network
    member: Member
    folder: Path

    @property
    def seed(self) -> int:
        return self.member.config.seed

    def history(self) -> list[dict[str, Any]]:
        """One dict per epoch, from the newest ``last``; empty where nothing has been trained yet."""
        try:
            return load_record(self.folder, "last")["history"]
        except FileNotFoundError:
            return []

    def diverged_at(self) -> int | None:
        """The step at which the run diverged, or None."""
        diverged = load_divergence(self.folder)
        return diverged["step"] if diverged else None

    def is_trained(self) -> bool:
        """Whether nothing is left to train: ``last`` is of the last epoch, or the run diverged."""
        if self.diverged_at() is not None:
            return True
        try:
            return len(self.history()) == self.member.config.epochs
        except CheckpointError:
            return False  # The run resumes from an earlier checkpoint.

    def evaluation(self, checkpoint: str, name: str) -> "Evaluation":
        """The :class:`Evaluation` of a checkpoint by a protocol."""
        return Evaluation(self, checkpoint, name, self.folder / "evaluation" / checkpoint / name)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A protocol, of ``PROTOCOLS`` or ``heat_map``, applied to a trial's checkpoint ``best`` or ``last``."""
    trial: Trial
    checkpoint: str
    protocol: str
    folder: Path

    @property
    def path(self) -> Path:
        """The file of the result."""
        return self.folder / ("heat_map.npz" if self.protocol == HEAT_MAP else "summary.json")

    def is_done(self) -> bool:
        """Whether there is a result."""
        return self.path.exists()

    def accuracy(self, column: str) -> float | None:
        """Accuracy in [0, 1] in a column of the summary, or None where there is no summary."""
        if not self.is_done():
            return None
        summary = read_summary(self.path)
        entry = summary[column] if column in summary else summary["attacks"].get(column)
        if entry is None:
            raise DamagedFileError(f"{self.path} has no accuracy of {column!r}. {_REMEDY}")
        return entry["accuracy"]

    def heat_map(self) -> tuple[Float32[np.ndarray, "n n"], Int32[np.ndarray, " n"]] | None:
        """(similarity, labels) as :func:`~morel_jax.reproduction.work.write_heat_map` wrote them, or None."""
        if not self.is_done():
            return None
        try:
            with np.load(self.path) as arrays:
                return arrays["similarity"], arrays["labels"]
        except (ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DamagedFileError(f"{self.path} cannot be read ({type(error).__name__}: {error}). {_REMEDY}") from None


class Reproduction:
    """The families that a request needs, and the evaluations of their trials.

    Args:
        root: folder of all reproductions; each scale and variant has a folder there.
        tables, figures: their numbers.
        study: whether to include the questions that the paper leaves open.
    """

    def __init__(self, grid: Grid, root: str | os.PathLike, tables: Iterable[int], figures: Iterable[int],
                 study: bool = False) -> None:
        self.grid, self.folder = grid, local_path(root, "root") / f"{grid.scale.name}-{grid.variant}"
        self.tables, self.figures, self.study = tuple(tables), tuple(figures), study
        self._wanted = self._find_wanted()
        families = [family for family in grid.families if any(network in self._wanted for network in family.networks)]
        # Surrogates come first: the other networks' evaluations wait for them.
        self.families = sorted(families, key=lambda family: family.networks[0].method != SURROGATE_METHOD)
        self._trials: dict = {}

    def _find_wanted(self) -> dict[Network, dict[tuple[str, str], None]]:
        """{network: {(checkpoint, protocol): None}}."""
        grid = self.grid
        wanted: dict = {}
        for cell in printed():
            network = grid.network(cell)
            if cell.table in self.tables and network:
                wanted.setdefault(network, {})[cell.checkpoint, protocol(cell)[0]] = None
                if cell.threat == "transfer":
                    wanted.setdefault(grid.surrogate(network), {})
        curves: list[Mapping[Any, Network]] = [grid.preferences["conic"], grid.batch_sizes] if 2 in self.figures else []
        curves += grid.preferences.values() if 4 in self.figures else []
        for network in (network for curve in curves for network in curve.values()):
            wanted.setdefault(network, {})
        for network in grid.heat_maps.values() if 3 in self.figures else ():
            wanted.setdefault(network, {})[SURROGATE_CHECKPOINT, HEAT_MAP] = None
        for lines in grid.study.values() if self.study else ():
            for network, _ in lines.values():
                wanted.setdefault(network, {})[STUDY_CHECKPOINT, "autoattack"] = None
        return wanted

    def trials(self, family: Family) -> list[Trial]:
        """The trials of a family."""
        if family not in self._trials:
            self._trials[family] = [Trial(network, member, self.folder / family.name / member.name)
                                    for (network, _), member in self.grid.members(family).items()]
        return self._trials[family]

    def trials_of(self, network: Network) -> list[Trial]:
        """The trials of a network, one per seed."""
        return [trial for trial in self.trials(self.grid.family(network)) if trial.network == network]

    def evaluations(self, family: Family) -> list[Evaluation]:
        """The evaluations that are needed of a family's trials, except those that diverged."""
        first_seed = self.grid.scale.seeds[0]
        return [trial.evaluation(checkpoint, name) for trial in self.trials(family)
                for checkpoint, name in self._wanted.get(trial.network, ())
                if trial.diverged_at() is None and (name != HEAT_MAP or trial.seed == first_seed)]

    def surrogate_of(self, network: Network) -> Trial:
        """The trial that a network's transferred attacks are crafted on."""
        return self.trials_of(self.grid.surrogate(network))[0]

    def shard(self, number: int, count: int) -> list[Family]:
        """The families of shard ``number`` of ``count``, counted from 1."""
        return self.families[number - 1::count]

    def check_trained(self, family: Family) -> None:
        """Checks those files of a family's trained runs that no later step reads.

        A ``metrics.jsonl`` that differs from the history in the checkpoint is written again.

        Raises:
            DamagedFileError: a ``config.json``, or the ``sweep.json`` of several runs, is damaged.
            FileNotFoundError: a ``config.json`` is missing.
            ValueError: the ``sweep.json`` is missing, or names other members.
        """
        trials = self.trials(family)
        if len(trials) > 1:
            open_sweep({trial.member.name: trial.member.changes for trial in trials}, self.folder / family.name)
        for trial in trials:
            load_config(trial.folder)
            history = trial.history()
            if history:  # There is none where the first epoch diverged.
                write_metrics(trial.folder, history)

    def values(self, cell: Cell) -> dict[int, float]:
        """{seed: accuracy in percent} of a cell's evaluated trials; empty where there are none."""
        network = self.grid.network(cell)
        return self.accuracies(network, cell.checkpoint, *protocol(cell)) if network else {}

    def accuracies(self, network: Network, checkpoint: str, name: str, column: str) -> dict[int, float]:
        """{seed: accuracy in percent} of a network's evaluated trials, from a column of a protocol's summaries."""
        found = {trial.seed: trial.evaluation(checkpoint, name).accuracy(column) for trial in self.trials_of(network)}
        return {seed: 100 * accuracy for seed, accuracy in found.items() if accuracy is not None}
