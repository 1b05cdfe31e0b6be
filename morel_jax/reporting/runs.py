"""What the folder of a run, a sweep or several runs says, with a line for each thing that cannot be read."""
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from morel_jax.configuration import defaults, flatten, nested
from morel_jax.files import DamagedFileError, local_path, read_json
from morel_jax.training.lock import was_left
from morel_jax.training.saved import first_line
from morel_jax.training.workdir import load_content, load_divergence

_REMEDY = "The page leaves it out."


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """What is known of a run.

    Attributes:
        name: the end of its path that tells it from the others.
        folder: its workdir.
        config: {"section.field": value}, later fields with their defaults; empty where it cannot be read.
        content: all that ``config.json`` says.
        history: one dict of finite numbers per epoch, as ``metrics.jsonl`` has them.
        diverged: {"epoch", "step"}, or None.
        was_left: whether the process that last trained it is known to have ended.
        notes: sentences on what could not be read.
    """
    name: str
    folder: Path
    config: dict[str, Any]
    content: dict[str, Any]
    history: list[dict[str, Any]]
    diverged: dict[str, int] | None
    was_left: bool
    notes: list[str]

    @property
    def is_finished(self) -> bool:
        """Whether no further epoch is to come."""
        return bool(self.diverged or (self.history and self.history[-1]["epoch"] >= self.config.get("epochs", 0)))

    @property
    def state(self) -> str:
        """How far it is, in words."""
        if self.diverged:
            return f"diverged at step {self.diverged['step']}"
        epoch = self.history[-1]["epoch"] if self.history else 0
        if self.is_finished:
            return f"finished, {epoch} epochs"
        reached = f"epoch {epoch} of {self.config.get('epochs', '?')}" if epoch else "no epoch finished"
        return f"{reached}, interrupted" if self.was_left else reached

    @property
    def best(self) -> dict[str, Any]:
        """The epoch that the run took as its best: ties go to the later; empty where none was validated."""
        judged = [line for line in self.history if "robust_accuracy" in line]
        return max(judged, key=lambda line: (line["robust_accuracy"], line["epoch"]), default={})

    @property
    def last(self) -> dict[str, Any]:
        """The last epoch that was validated, or empty."""
        return next((line for line in reversed(self.history) if "robust_accuracy" in line), {})


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").exists() or (folder / "metrics.jsonl").exists()


def _folders(path: Path) -> list[Path]:
    """The runs' folders in ``path``: itself, a sweep's members, or the runs and sweeps that lie in it."""
    if _is_run(path):
        return [path]
    if (path / "sweep.json").exists():
        try:
            members = read_json(path / "sweep.json", "Put back a copy of it.", fields={})
            return [path / name for name in members if (path / name).is_dir()]
        except DamagedFileError:
            pass  # Its members are there all the same.
    inside = sorted(one for one in path.iterdir() if one.is_dir())
    return [run for one in inside if _is_run(one) or (one / "sweep.json").exists() for run in _folders(one)]


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _history(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, without what is no finite number."""
    if not path.exists():
        return []
    history = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line = json.loads(text)
            epoch, step = line["epoch"], line["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            notes.append(f"{path}, line {number}, is no epoch's line of metrics. {_REMEDY}")
            continue
        numbers = {name: value for name, value in line.items()
                   if type(value) in (int, float) and math.isfinite(value)}
        if {"epoch", "step"} <= numbers.keys():
            history.append(numbers)
        else:
            notes.append(f"{path}, line {number}, has epoch {epoch!r:.20} and step {step!r:.20}. {_REMEDY}")
    return history


def _read(name: str, folder: Path) -> ReportedRun:
    notes: list[str] = []
    config: dict[str, Any] = {}
    content: dict[str, Any] = {}
    diverged = None
    try:
        content = load_content(folder)
        config = flatten(nested(flatten(defaults()) | flatten(content["config"])))
    except (FileNotFoundError, DamagedFileError) as error:
        notes.append(str(error))
    except (AttributeError, TypeError, ValueError) as error:
        notes.append(f"{folder / 'config.json'} is no config of this version ({first_line(error)}). {_REMEDY}")
    try:
        diverged = load_divergence(folder)
    except DamagedFileError as error:
        notes.append(str(error))
    history = _history(folder / "metrics.jsonl", notes)
    return ReportedRun(name, folder, config, content, history, diverged, was_left(folder), notes)


def find_runs(paths: Iterable[str | os.PathLike]) -> list[ReportedRun]:
    """The runs in folders, each once.

    Args:
        paths: of runs, sweeps, or folders in which runs and sweeps lie.

    Raises:
        FileNotFoundError: a path is no folder, or there is no run in it.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        folder = local_path(path, "RUN")
        found = _folders(folder) if folder.is_dir() else []
        if not found:
            raise FileNotFoundError(f"no run in {folder}: RUN must be a folder with a run (config.json), with a sweep, "
                                    "or with folders of those.")
        folders |= {one.resolve(): one for one in found}
    return [_read(*one) for one in zip(_names(list(folders.values())), folders.values(), strict=True)]
