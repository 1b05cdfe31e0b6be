"""What a ledger says: accuracies with confidence intervals, as numbers and as a table."""
import math

import numpy as np

from morel_jax.evaluation.suite import PAPER
from morel_jax.files import DamagedFileError, read_json

# Of the standard normal distribution, for intervals of 95 %.
_Z = 1.959963984540054


def wilson_interval(count, total):
    """95 % confidence interval of a share, [low, high] (Wilson, 1927), which stays within [0, 1]."""
    share = count / total
    middle = (share + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = _Z / (1 + _Z**2 / total) * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def _share(flags):
    count = int(np.sum(flags))
    return {"accuracy": count / len(flags), "correct": count, "interval": wilson_interval(count, len(flags))}


def _mean(values):
    """Mean of a number an example with its 95 % interval by the normal approximation."""
    mean, half = float(np.mean(values)), _Z * float(np.std(values)) / math.sqrt(len(values))
    return {"accuracy": mean, "interval": [mean - half, mean + half]}


def _members(ledger, names, index):
    """{name: list of Row or None, by example}."""
    return {name: [rows.get(one) for one in index]
            for name, rows in ((name, ledger.rows(name)) for name in names)}


def summarise(ledger, columns, index, clean_right):
    """Accuracies of a complete evaluation.

    Args:
        ledger: :class:`~morel_jax.evaluation.ledger.Ledger`.
        columns: {column: names of entries}, as :class:`~morel_jax.evaluation.suite.Plan` has it.
        index: int[n], places of the examples in the data set.
        clean_right: bool[n], whether they are classified right unattacked.

    Returns:
        dict of plain values: ``examples``; ``clean``; ``attacks`` by column; ``average`` and ``transfer_average``, the
        paper's Avg-Robust, where its four attacks are there; ``worst_case`` over all attacks that saw the network
        itself. Each has ``accuracy`` in [0, 1] and its 95 % ``interval``. An attack's ``violations`` count the images
        that it may not return, by name; ``non_finite`` those on which the network's logits are NaN or infinite.
    """
    examples = len(clean_right)
    robust, attacks = {}, {}
    for column, names in columns.items():
        members = _members(ledger, names, index)
        rows = [[row for row in rows if row] for rows in zip(*members.values(), strict=True)]
        robust[column] = np.array([not any(row.broken for row in own) for own in rows]) & clean_right
        broken = [next(row for row in own if row.broken) for own, right in zip(rows, clean_right, strict=True)
                  if right and any(row.broken for row in own)]
        violations = [row.violation for own in rows for row in own if row.violation]
        attacks[column] = _share(robust[column]) | {
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
    result = {"examples": examples, "clean": _share(clean_right), "attacks": attacks}
    for key, prefix in (("average", ""), ("transfer_average", "transfer-")):
        if all(prefix + name in robust for name in PAPER):
            result[key] = _mean(np.mean([robust[prefix + name] for name in PAPER], axis=0))
    white = [flags for column, flags in robust.items() if not column.startswith("transfer-")]
    if white:
        result["worst_case"] = _share(np.all(white, axis=0))
    return result


def read_summary(path):
    """What :func:`~morel_jax.evaluation.evaluate` wrote to ``summary.json``.

    Raises:
        DamagedFileError: it is not that.
    """
    remedy = "Delete it, and give the command again, which writes it anew from the ledger."
    summary = read_json(path, remedy, fields={"settings": dict, "clean": dict, "attacks": dict})
    averages = {name: summary[name] for name in ("average", "transfer_average", "worst_case") if name in summary}
    for name, entry in ({"clean": summary["clean"]} | averages | summary["attacks"]).items():
        accuracy = entry.get("accuracy") if isinstance(entry, dict) else None
        if not isinstance(accuracy, (int, float)) or not 0 <= accuracy <= 1:
            raise DamagedFileError(f"{path} must give {name} an accuracy in [0, 1]; got {accuracy!r}. {remedy}")
    return summary


def _line(name, entry, note=""):
    low, high = entry["interval"]
    return f"| {name} | {100 * entry['accuracy']:.2f} | {100 * low:.2f} to {100 * high:.2f} | {note} |"


def to_markdown(summary, title):
    """The table of a summary, as Markdown that also reads as it is.

    Args:
        summary: what :func:`summarise` returned, with ``settings``.
        title: of the table.
    """
    settings = summary["settings"]
    lines = [f"## {title}", "",
             f"{summary['examples']} images, {settings['norm']}, epsilon {settings['epsilon']:.5g}, seed "
             f"{settings['seed']}. Accuracy with its 95 % confidence interval; an image that is misclassified without "
             "an attack counts as broken.", "",
             "| attack | accuracy, % | 95 % interval | |", "|---|---|---|---|", _line("none (clean)", summary["clean"])]
    for column, entry in summary["attacks"].items():
        notes = [f"{name} {100 * share:.2f}" for name, share in entry.get("accuracy_after", {}).items()]
        notes = ["after " + ", ".join(notes)] if notes else []
        notes += [f"{count} images outside ({name}), not counted" for name, count in entry["violations"].items()]
        if entry["non_finite"]:
            notes.append(f"{entry['non_finite']} images with logits that are not finite, counted as broken")
        lines.append(_line(column, entry, "; ".join(notes)))
    for key, name in (("average", "Avg-Robust (FGSM, PGD-20, PGD-100, CW)"),
                      ("transfer_average", "Avg-Robust, transfer"), ("worst_case", "worst case over attacks")):
        if key in summary:
            lines.append(_line(name, summary[key]))
    return "\n".join(lines) + "\n"
