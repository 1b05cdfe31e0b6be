"""What a ledger says: accuracies with confidence intervals, as numbers and as a table."""
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Int
from tabulate import tabulate

from morel_jax.attack_names import PAPER, TRANSFER
from morel_jax.evaluation.distances import DistanceCurve, nearest
from morel_jax.evaluation.ledger import Ledger
from morel_jax.files import DamagedFileError, local_path, read_json

_CONFIDENCE = 0.95


def wilson_interval(count: int, total: int) -> list[float]:
    """95 % confidence interval of a share, [low, high], within [0, 1] (Wilson, 1927)."""
    return [float(end) for end in scipy.stats.binomtest(count, total).proportion_ci(_CONFIDENCE, method="wilson")]


def share(flags: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    """``accuracy``, ``correct`` and 95 % ``interval`` of examples by whether each is classified correctly."""
    count = int(np.sum(flags))
    return {"accuracy": count / len(flags), "correct": count, "interval": wilson_interval(count, len(flags))}


def _mean(values: np.ndarray) -> dict[str, Any]:
    """Mean of one number per example with its 95 % interval by the normal approximation."""
    mean, z = float(np.mean(values)), float(scipy.stats.norm.ppf((1 + _CONFIDENCE) / 2))
    half = z * float(np.std(values)) / math.sqrt(len(values))
    return {"accuracy": mean, "interval": [mean - half, mean + half]}


def summarise(ledger: Ledger, columns: Mapping[str, Sequence[str]], index: Int[np.ndarray, " n"],
              clean_right: Bool[np.ndarray, " n"], minimal: Collection[str] = ()) -> dict[str, Any]:
    """Accuracies of a complete evaluation.

    Args:
        columns: {column: names of its attacks}, from :func:`~morel_jax.evaluation.suite.build_suite`.
        index: places of the examples in the data set.
        clean_right: whether they are classified correctly without an attack.
        minimal: names of the minimum-norm attacks.

    Returns:
        Plain values: ``examples``; ``clean``; ``attacks`` by column; ``average`` and ``transfer_average``, the paper's
        Avg-Robust, if its four attacks were run; ``worst_case`` over all attacks crafted on the network itself. Each
        has ``accuracy`` in [0, 1] and its 95 % ``interval``. For an attack ``violations`` gives by name how many images
        were ruled out, and ``non_finite`` on how many the logits are NaN or infinite. A minimum-norm attack has its
        ``curve``, a :class:`~morel_jax.evaluation.distances.DistanceCurve` as a dict; ``curve`` beside ``attacks`` is
        that of the nearest image over all of them that are crafted on the network itself.
    """
    examples = len(clean_right)
    robust, attacks, distances = {}, {}, {}
    for column, names in columns.items():
        by_name = {name: ledger.rows(name) for name in names}
        members = {name: [rows.get(one) for one in index] for name, rows in by_name.items()}
        rows = [[row for row in rows if row] for rows in zip(*members.values(), strict=True)]
        robust[column] = np.array([not any(row.broken for row in own) for own in rows]) & clean_right
        broken = [next(row for row in own if row.broken) for own, right in zip(rows, clean_right, strict=True)
                  if right and any(row.broken for row in own)]
        violations = [row.violation for own in rows for row in own if row.violation]
        attacks[column] = share(robust[column]) | {
            "uint8_accuracy": float(np.mean([right and not any(row.uint8_broken for row in own)
                                             for own, right in zip(rows, clean_right, strict=True)])),
            "median_distance": float(np.median([row.distance for row in broken])) if broken else None,
            "median_steps": float(np.median([row.steps for row in broken])) if broken else None,
            "non_finite": sum(any(row.prediction == -1 for row in own) for own in rows),
            "violations": {name: violations.count(name) for name in sorted(set(violations))},
        }
        if len(names) > 1:
            alive, after = clean_right.copy(), {}
            for name, own in members.items():
                alive &= np.array([row is None or not row.broken for row in own])
                after[name] = float(np.mean(alive))
            attacks[column]["accuracy_after"] = after
        if column in minimal:
            found = nearest(by_name[column], index)
            attacks[column]["curve"] = DistanceCurve.of(found, clean_right).to_dict()
            if not column.startswith(TRANSFER):
                distances[column] = found
    result = {"examples": examples, "clean": share(clean_right), "attacks": attacks}
    if distances:
        result["curve"] = DistanceCurve.of(np.min(list(distances.values()), axis=0), clean_right).to_dict()
    for key, prefix in (("average", ""), ("transfer_average", TRANSFER)):
        if all(prefix + name in robust for name in PAPER):
            result[key] = _mean(np.mean([robust[prefix + name] for name in PAPER], axis=0))
    white = [flags for column, flags in robust.items() if not column.startswith(TRANSFER)]
    if white:
        result["worst_case"] = share(np.all(white, axis=0))
    return result


def read_summary(path: Path) -> dict[str, Any]:
    """What :func:`~morel_jax.evaluation.evaluate` wrote to ``summary.json``.

    Raises:
        DamagedFileError: it is not that.
    """
    remedy = "Delete it, and give the command again, which rewrites it from the ledger."
    summary = read_json(path, remedy, fields={"settings": dict, "clean": dict, "attacks": dict})
    averages = {name: summary[name] for name in ("average", "transfer_average", "worst_case") if name in summary}
    for name, entry in ({"clean": summary["clean"]} | averages | summary["attacks"]).items():
        accuracy = entry.get("accuracy") if isinstance(entry, dict) else None
        if not isinstance(accuracy, (int, float)) or not 0 <= accuracy <= 1:
            raise DamagedFileError(f"{path} must give {name} an accuracy in [0, 1]; got {accuracy!r}. {remedy}")
    return summary


def distance_curve(folder: str | os.PathLike, attack: str | None = None) -> DistanceCurve:
    """Robust accuracy at every radius, from one evaluation by minimum-norm attacks.

    Args:
        folder: of the evaluation, where its ``summary.json`` is.
        attack: name of a minimum-norm attack; None: the nearest image of all that are crafted on the network itself.

    Raises:
        ValueError: the evaluation has no such attack.
        DamagedFileError: ``summary.json`` is not as it was written.
    """
    path = local_path(folder, "folder") / "summary.json"
    summary = read_summary(path)
    curves = {name: entry["curve"] for name, entry in summary["attacks"].items() if "curve" in entry}
    curve = summary.get("curve") if attack is None else curves.get(attack)
    if curve is None:
        raise ValueError(f"attack must be a minimum-norm attack of {path}, {' or '.join(curves) or 'which has none'}; "
                         f"got {attack!r}.")
    return DistanceCurve.from_dict(curve)


def cells(name: str, entry: Mapping[str, Any], note: str = "") -> tuple[str, str, str, str]:
    """(name, accuracy in %, its interval, note): a row of a table."""
    low, high = entry["interval"]
    return name, f"{100 * entry['accuracy']:.2f}", f"{100 * low:.2f} to {100 * high:.2f}", note


def to_markdown(summary: Mapping[str, Any], title: str) -> str:
    """The table of a summary, what :func:`summarise` returned with ``settings``, as Markdown."""
    settings, rows = summary["settings"], [cells("none (clean)", summary["clean"])]
    for column, entry in summary["attacks"].items():
        notes = [f"{name} {100 * share:.2f}" for name, share in entry.get("accuracy_after", {}).items()]
        notes = ["after " + ", ".join(notes)] if notes else []
        notes += [f"{count} images outside ({name}), not counted" for name, count in entry["violations"].items()]
        if "curve" in entry:
            median = entry["curve"]["median"]
            notes.append("median radius " + ("infinite" if median is None else f"{median:.4g}"))
        if entry["non_finite"]:
            notes.append(f"{entry['non_finite']} images with logits that are not finite, counted as broken")
        rows.append(cells(column, entry, "; ".join(notes)))
    rows += [cells(name, summary[key]) for key, name in (
        ("average", "Avg-Robust (FGSM, PGD-20, PGD-100, CW)"), ("transfer_average", "Avg-Robust, transfer"),
        ("worst_case", "worst case over attacks")) if key in summary]
    table = tabulate(rows, ("attack", "accuracy, %", "95 % interval", ""), tablefmt="github", disable_numparse=True)
    verdict = f", each verdict the majority of {settings['draws']} draws" if "draws" in settings else ""
    return (f"## {title}\n\n{summary['examples']} images, {settings['norm']}, epsilon {settings['epsilon']:.5g}, seed "
            f"{settings['seed']}{verdict}. Accuracy with its 95 % confidence interval; an image that is misclassified "
            f"without an attack counts as broken.\n\n{table}\n")
