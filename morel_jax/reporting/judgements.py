"""What the evaluations in a run's folder found: accuracies with intervals, report cards, corruptions."""
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from morel_jax.evaluation.summary import read_summary
from morel_jax.files import DamagedFileError, read_json
from morel_jax.reporting.runs import ReportedRun

_REMEDY = "The page leaves it out; give the evaluation's command again."
_AVERAGES = {"average": "Avg-Robust", "transfer_average": "Avg-Robust, transfer", "worst_case": "worst case"}
CLEAN, WORST = "clean", "worst case"
_FILES = {"ledger.csv", "summary.json", "union.json", "corruptions.json"}


@dataclasses.dataclass(frozen=True)
class Share:
    """An accuracy and the ends of its 95 % interval, in percent; the ends are None where none was written."""
    accuracy: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One evaluation of one run.

    Attributes:
        run: the run's number among those of the report.
        name: of the run and of the evaluation's folder.
        threat: norm, radius and images, in words: what may be compared has the same.
        columns: {attack: Share}, ``clean`` first, means and the worst case last.
        card: what ``report_card.json`` says, or None.
        curve: robust accuracy by radius of the nearest image, {"radii", "accuracies"}, or None.
    """
    run: int
    name: str
    threat: str
    columns: Mapping[str, Share]
    card: Mapping[str, Any] | None = None
    curve: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Corrupted:
    """Accuracies on common corruptions, in percent: of a run's evaluation, the mean and by severity."""
    run: int
    name: str
    images: int
    mean: float
    severities: list[float]


def _share(entry: Any) -> Share | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("accuracy"), (int, float)):
        return None
    interval = entry.get("interval")
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    return Share(100 * entry["accuracy"], low and 100 * low, high and 100 * high)


def _columns(entries: Mapping[str, Any]) -> dict[str, Share]:
    return {name: share for name, entry in entries.items() if (share := _share(entry))}


def _of_summary(run: int, name: str, path: Path, notes: list[str]) -> Judgement:
    summary = read_summary(path)
    settings = summary["settings"]
    norm, epsilon = settings.get("norm", "linf"), settings.get("epsilon")
    radius = f", epsilon {epsilon:.5g}" if isinstance(epsilon, (int, float)) else ""
    threat = f"{norm}{radius}, {summary.get('examples', '?')} images"
    columns = _columns({CLEAN: summary["clean"]} | summary["attacks"]
                       | {text: summary[key] for key, text in _AVERAGES.items() if key in summary})
    card = None
    if (where := path.with_name("report_card.json")).exists():
        try:
            card = read_json(where, _REMEDY, {"lines": list, "epsilon": (int, float), "norm": str, "images": int,
                                              "epsilons": list, "epsilon_accuracies": list})
            card["lines"] = [line for line in card["lines"]
                             if isinstance(line, dict) and {"name", "verdict", "text"} <= line.keys()]
        except DamagedFileError as error:
            notes.append(str(error))
    curve = summary.get("curve")
    has_curve = isinstance(curve, dict) and curve.get("radii") and curve.get("accuracies")
    return Judgement(run, name, threat, columns, card, curve if has_curve else None)


def _of_union(run: int, name: str, path: Path) -> Judgement:
    union = read_json(path, _REMEDY, {"norms": dict, "clean": dict, "union": dict})
    norms = {f"worst case, {norm}": entry for norm, entry in union["norms"].items()}
    radii = " and ".join(f"{norm} {entry.get('epsilon', 0):.5g}" for norm, entry in union["norms"].items()
                         if isinstance(entry, dict))
    return Judgement(run, name, f"union of {radii}, {union.get('examples', '?')} images",
                     _columns({CLEAN: union["clean"]} | norms | {WORST: union["union"]}))


def _of_corruptions(run: int, name: str, path: Path) -> Corrupted:
    found = read_json(path, _REMEDY, {"mce": (int, float), "accuracies": list, "examples": int})
    return Corrupted(run, name, found["examples"], 100 * (1 - found["mce"]),
                     [100 * one for one in found["accuracies"]])


def find_judgements(runs: Iterable[ReportedRun]) -> tuple[list[Judgement], list[Corrupted], list[str]]:
    """Everything that was evaluated in the runs' folders.

    Returns:
        (judgements, corruptions, notes): the last has a sentence for each evaluation that is unfinished or damaged.
    """
    judgements: list[Judgement] = []
    corrupted: list[Corrupted] = []
    notes: list[str] = []
    for number, run in enumerate(runs):
        top = run.folder / "evaluation"
        folders = sorted({path.parent for path in top.rglob("*") if path.name in _FILES})
        for folder in folders:
            name = f"{run.name}, {folder.relative_to(top)}" if folder != top else run.name
            if (folder / "ledger.csv").exists() and not (folder / "summary.json").exists():
                rows = max((folder / "ledger.csv").read_bytes().count(b"\n") - 1, 0)
                notes.append(f"The evaluation in {folder} is unfinished, with {rows} rows so far; the same command "
                             "resumes it.")
            try:
                if (path := folder / "union.json").exists():
                    judgements.append(_of_union(number, name, path))
                if (path := folder / "summary.json").exists():
                    judgements.append(_of_summary(number, name, path, notes))
                if (path := folder / "corruptions.json").exists():
                    corrupted.append(_of_corruptions(number, name, path))
            except DamagedFileError as error:
                notes.append(str(error))
    return judgements, corrupted, notes
