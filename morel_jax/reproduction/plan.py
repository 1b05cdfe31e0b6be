"""What a request for tables and figures takes, and what of it is done."""
import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from morel_jax.evaluation.summary import read_summary
from morel_jax.files import DamagedFileError, local_path
from morel_jax.reproduction import cells
from morel_jax.reproduction.grid import SURROGATE_METHOD, Grid, protocol
from morel_jax.training.saved import CheckpointError, load_record
from morel_jax.training.workdir import load_divergence

HEAT_MAP = "heat_map"
_HEAT_MAP_FILE = "heat_map.npz"
_JUDGE_AGAIN = "Delete it, and give the command again."
SURROGATE_CHECKPOINT = STUDY_CHECKPOINT = "last"


@dataclasses.dataclass(frozen=True)
class Run:
    """One network trained with one seed.

    Attributes:
        network: :class:`~morel_jax.reproduction.grid.Network`.
        member: :class:`~morel_jax.training.members.Member`, with the run's config.
        folder: of the run.
    """
    network: Any
    member: Any
    folder: Path

    @property
    def seed(self):
        return self.member.config.seed

    def history(self):
        """A dict an epoch, as the newest ``last`` has it; empty where nothing was trained yet."""
        try:
            return load_record(self.folder, "last")["history"]
        except FileNotFoundError:
            return []

    def diverged_at(self):
        """The step at which the run diverged, or None."""
        diverged = load_divergence(self.folder)
        return diverged and diverged["step"]

    def is_trained(self):
        """Whether nothing is left to train: its ``last`` is that of the last epoch, or it diverged."""
        if self.diverged_at() is not None:
            return True
        try:
            return len(self.history()) == self.member.config.epochs
        except CheckpointError:
            return False  # The run goes on from the checkpoint before.

    def judgement(self, which, name):
        """The :class:`Judgement` of a checkpoint by a protocol."""
        return Judgement(self, which, name, self.folder / "evaluation" / which / name)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A protocol applied to one checkpoint of one run.

    Attributes:
        run: :class:`Run`.
        which: ``best`` or ``last``.
        protocol: of ``PROTOCOLS``, or ``heat_map``.
        folder: of the results.
    """
    run: Run
    which: str
    protocol: str
    folder: Path

    def summary(self):
        """What :func:`~morel_jax.evaluation.evaluate` returned, or None."""
        path = self.folder / "summary.json"
        return read_summary(path) if path.exists() else None

    def accuracy(self, column):
        """Accuracy in [0, 1] in a column of the summary, or None where there is no summary."""
        summary = self.summary()
        if summary is None:
            return None
        entry = summary[column] if column in summary else summary["attacks"].get(column)
        if entry is None:
            raise DamagedFileError(f"{self.folder / 'summary.json'} has no accuracy of {column!r}. {_JUDGE_AGAIN}")
        return entry["accuracy"]

    def heat_map(self):
        """(similarity, labels) as :func:`~morel_jax.reproduction.work.heat_map` wrote them, or None."""
        path = self.folder / _HEAT_MAP_FILE
        if not path.exists():
            return None
        try:
            with np.load(path) as arrays:
                return arrays["similarity"], arrays["labels"]
        except (ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DamagedFileError(f"{path} cannot be read ({type(error).__name__}: {error}). {_JUDGE_AGAIN}") from None

    def is_done(self):
        """Whether the results are there."""
        return (self.folder / (_HEAT_MAP_FILE if self.protocol == HEAT_MAP else "summary.json")).exists()


class Plan:
    """The families that a request needs, and the judgements of their runs.

    Args:
        grid: :class:`~morel_jax.reproduction.grid.Grid`.
        root: folder of the reproduction; one scale and variant each have a folder there.
        tables, figures: their numbers.
        study: whether the questions that the paper leaves open are asked too.
    """

    def __init__(self, grid: Grid, root, tables, figures, study=False):
        self.grid, self.folder = grid, local_path(root, "root") / f"{grid.scale.name}-{grid.variant}"
        self.tables, self.figures, self.study = tuple(tables), tuple(figures), study
        wanted = self._wanted()
        self.families = [family for family in grid.families if any(network in wanted for network in family.networks)]
        # The networks that attacks are crafted on come first: the others' judgements wait for them.
        self.families.sort(key=lambda family: family.networks[0].method != SURROGATE_METHOD)
        self._runs = {family: self._runs_of(family) for family in self.families}
        self._wanted_by = wanted

    def _wanted(self):
        wanted: dict = {}
        for cell in cells.printed():
            network = self.grid.network(cell)
            if cell.table in self.tables and network:
                wanted.setdefault(network, {})[cell.checkpoint, protocol(cell)[0]] = None
                if cell.threat == "transfer":
                    wanted.setdefault(self.grid.surrogate(cell), {})
        preferences = self.grid.preferences
        curves = [preferences["conic"], self.grid.batch_sizes] if 2 in self.figures else []
        curves += list(preferences.values()) if 4 in self.figures else []
        for curve in curves:
            for network in curve.values():
                wanted.setdefault(network, {})
        if 3 in self.figures:
            for network in self.grid.heat_maps.values():
                wanted.setdefault(network, {})[SURROGATE_CHECKPOINT, HEAT_MAP] = None
        for lines in self.grid.study.values() if self.study else ():
            for network, _ in lines.values():
                wanted.setdefault(network, {})[STUDY_CHECKPOINT, "autoattack"] = None
        return wanted

    def _runs_of(self, family):
        return [Run(network, member, self.folder / family.name / member.name)
                for (network, _), member in self.grid.members(family).items()]

    def runs(self, family):
        """The runs of a family."""
        return self._runs[family]

    def runs_of(self, network):
        """The runs of a network, one a seed."""
        family = self.grid.family(network)
        runs = self._runs.get(family) or self._runs_of(family)
        return [run for run in runs if run.network == network]

    def judgements(self, family):
        """All judgements that the request needs of a family's runs, but of those that diverged."""
        found = []
        for run in self.runs(family):
            for which, name in self._wanted_by.get(run.network, ()):
                if run.diverged_at() is None and (name != HEAT_MAP or run.seed == self.grid.scale.seeds[0]):
                    found.append(run.judgement(which, name))
        return found

    def surrogate_of(self, network):
        """The run that a network's transferred attacks are crafted on."""
        surrogate = dataclasses.replace(network, architecture=self.grid.scale.surrogate, method=SURROGATE_METHOD,
                                        changes=())
        return self.runs_of(surrogate)[0]

    def shard(self, number, count):
        """The families of shard ``number`` of ``count``, counted from 1."""
        return self.families[number - 1::count]


def values(plan, cell):
    """{seed: accuracy in percent} of a cell, of the runs that are judged; empty where there are none."""
    network = plan.grid.network(cell)
    return accuracies(plan, network, cell.checkpoint, *protocol(cell)) if network else {}


def accuracies(plan, network, which, name, column):
    """{seed: accuracy in percent} that a protocol found for one of its columns, of the runs that are judged."""
    found = {}
    for run in plan.runs_of(network):
        accuracy = run.judgement(which, name).accuracy(column)
        if accuracy is not None:
            found[run.seed] = 100 * accuracy
    return found
