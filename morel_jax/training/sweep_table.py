"""What became of a population's members, as a table."""
import csv
import io

_ACCURACIES = ("clean_accuracy", "robust_accuracy")


def table_rows(outcomes):
    """One dict a member, for a table.

    Args:
        outcomes: list of :class:`~morel_jax.training.fit.Outcome`.

    Returns:
        list of dicts: ``member``; ``best_epoch`` and ``last_epoch``; ``best_`` and ``last_`` with ``clean_accuracy``
        and ``robust_accuracy`` in [0, 1]; ``diverged_at_step``. None where there is none.
    """
    rows = []
    for outcome in outcomes:
        row = {"member": outcome.member.name}
        judged = [line for line in outcome.history if "robust_accuracy" in line]
        # `best` as the run chose it: ties go to the later epoch. A member that diverged has no last state.
        best: dict = max(judged, key=lambda line: (line["robust_accuracy"], line["epoch"]), default={})
        last = judged[-1] if judged and not outcome.diverged else {}
        for which, line in (("best", best), ("last", last)):
            row |= {f"{which}_{name}": line.get(name) for name in ("epoch", *_ACCURACIES)}
        rows.append(row | {"diverged_at_step": outcome.diverged and outcome.diverged["step"]})
    return rows


def to_csv(rows):
    """The table of :func:`table_rows` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows, title):
    """The same as Markdown that also reads as it is; accuracies in percent."""
    def percent(value):
        return "" if value is None else f"{100 * value:.2f}"

    lines = [f"## {title}", "", "| member | best: epoch | clean, % | robust, % | last: clean, % | robust, % | |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["member"], "" if row["best_epoch"] is None else row["best_epoch"],
                 *(percent(row[f"{which}_{name}"]) for which in ("best", "last") for name in _ACCURACIES),
                 "" if row["diverged_at_step"] is None else f"diverged at step {row['diverged_at_step']}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
