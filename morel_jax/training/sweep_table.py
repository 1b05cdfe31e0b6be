"""The results of a population's members, as a table."""
import csv
import io
import os
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from morel_jax.training.fit import Outcome

_ACCURACIES = ("clean_accuracy", "robust_accuracy")


def table_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One dict a member, for a table.

    Args:
        outcomes: list of :class:`~morel_jax.training.fit.Outcome`.

    Returns:
        list of dicts: ``member``; ``best_epoch`` and ``last_epoch``; ``best_`` and ``last_`` with ``clean_accuracy``
        and ``robust_accuracy`` in [0, 1]; ``diverged_at_step``. None where there is none.
    """
    rows = []
    for outcome in outcomes:
        row: dict[str, Any] = {"member": outcome.member.name}
        judged = [line for line in outcome.history if "robust_accuracy" in line]
        # `best` as the run chose it: ties go to the later epoch. A member that diverged has no last state.
        best: dict = max(judged, key=lambda line: (line["robust_accuracy"], line["epoch"]), default={})
        last = judged[-1] if judged and not outcome.diverged else {}
        for which, line in (("best", best), ("last", last)):
            row |= {f"{which}_{name}": line.get(name) for name in ("epoch", *_ACCURACIES)}
        rows.append(row | {"diverged_at_step": outcome.diverged and outcome.diverged["step"]})
    return rows


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The table of :func:`table_rows` as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows: Sequence[dict[str, Any]], title: str | os.PathLike) -> str:
    """The same as Markdown that reads well as plain text too; accuracies in percent."""
    def cell(value: Any, text: str = "{}", factor: int = 1) -> str:
        return "" if value is None else text.format(factor * value)

    heads = ("member", "best: epoch", "clean, %", "robust, %", "last: clean, %", "robust, %", "")
    cells = [(row["member"], cell(row["best_epoch"]),
              *(cell(row[f"{which}_{name}"], "{:.2f}", 100) for which in ("best", "last") for name in _ACCURACIES),
              cell(row["diverged_at_step"], "diverged at step {}")) for row in rows]
    return f"## {title}\n\n{tabulate(cells, heads, tablefmt='github', disable_numparse=True)}\n"
