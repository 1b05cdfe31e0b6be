"""The report as one HTML page that needs no other file, as Markdown, and its figures."""
import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from morel_jax.evaluation.figures import new_figure, png
from morel_jax.files import write_atomically
from morel_jax.reproduction.report import QUESTIONS, STUDY_LOSSES

Plain = Mapping[str, Any]  # A part of the report.

# App. B: WS red, CS black.
_STYLES: dict[str, dict[str, Any]] = {"conic": dict(color="black", label="conic scalarization"),
                                      "weighted_sum": dict(color="#c0392b", label="weighted sum")}
_SIZE = 8


def _axis(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=_SIZE + 1)
    axis.set_xlabel(x, fontsize=_SIZE)
    axis.set_ylabel(y, fontsize=_SIZE)
    axis.tick_params(labelsize=_SIZE - 1)
    axis.grid(alpha=0.3)


def _column(curve: Sequence[Plain], name: str, factor: float = 1.0) -> tuple[list[float], list[float]]:
    """(means, half intervals) of a curve; no interval counts as zero width."""
    return ([factor * point[name]["mean"] for point in curve],
            [factor * (point[name]["half"] or 0.0) for point in curve])


def _front(axis: Axes, curves: Mapping[str, Sequence[Plain]]) -> None:
    for name, curve in curves.items():
        (first, first_half), (second, second_half) = (_column(curve, loss) for loss in
                                                      ("representation_loss", "classification_loss"))
        axis.errorbar(first, second, second_half, first_half, "o-", ms=3, lw=1, **_STYLES[name])
        for point, x, y in zip(curve, first, second, strict=True):
            axis.annotate(f"{point['at']:g}", (x, y), textcoords="offset points", xytext=(4, 3), fontsize=_SIZE - 2,
                          color=_STYLES[name]["color"])
    _axis(axis, "losses at the end of training, by $k_1$", "$L_1$, representation", "$L_2$, classification")


def _draw_accuracies(axis: Axes, at: Sequence[float], curve: Sequence[Plain], color: str, prefix: str = "") -> None:
    for which, line in (("best", "o-"), ("last", "o:")):
        mean, half = _column(curve, which, 100)
        axis.errorbar(at, mean, half, fmt=line, ms=3, lw=1, color=color, label=prefix + which)


def _label_accuracies(axis: Axes, x: str) -> None:
    _axis(axis, "accuracy under PGD-20, %", x, "")
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, 0), min(high, 100))  # Intervals of few seeds reach further.
    axis.legend(fontsize=_SIZE - 2)


def _robust_by_preference(axis: Axes, curves: Mapping[str, Sequence[Plain]]) -> None:
    for name, curve in curves.items():
        style = _STYLES[name]
        _draw_accuracies(axis, [point["at"] for point in curve], curve, style["color"], f"{style['label']}, ")
    _label_accuracies(axis, "$k_1$")


def _figure_2(data: Plain) -> Figure:
    """Pareto front, robust accuracy by k1, robust accuracy by batch size."""
    figure, curve = new_figure(10, 3.2), data["batch_sizes"]
    front, by_preference, by_batch = figure.subplots(1, 3)
    _front(front, data["curves"])
    _robust_by_preference(by_preference, data["curves"])
    _draw_accuracies(by_batch, range(len(curve)), curve, "black")
    by_batch.set_xticks(range(len(curve)), [str(point["at"]) for point in curve])
    _label_accuracies(by_batch, "batch size")
    return figure


def _figure_3(data: Plain) -> Figure:
    """Similarities between features of attacked and natural images; one map per method."""
    figure = new_figure(3.4 * len(data), 3.4)
    axes = figure.subplots(1, len(data), squeeze=False)[0]
    for axis, (method, heat_map) in zip(axes, data.items(), strict=True):
        axis.set_title(method, fontsize=_SIZE + 1)
        axis.set_xlabel("natural image", fontsize=_SIZE)
        axis.set_ylabel("attacked image", fontsize=_SIZE)
        if heat_map is None:
            axis.text(0.5, 0.5, "not computed", ha="center", transform=axis.transAxes, fontsize=_SIZE)
            continue
        shown = axis.imshow(np.array(heat_map["similarity"]), vmin=-1, vmax=1, cmap="RdBu_r", origin="lower")
        for place in np.flatnonzero(np.diff(heat_map["labels"])) + 0.5:
            axis.axvline(place, color="black", lw=0.3)
            axis.axhline(place, color="black", lw=0.3)
        axis.tick_params(labelsize=_SIZE - 2)
        figure.colorbar(shown, ax=axis, shrink=0.7).ax.tick_params(labelsize=_SIZE - 2)
    return figure


def _figure_4(data: Plain) -> Figure:
    """Conic scalarization against the weighted sum."""
    figure = new_figure(7.5, 3.2)
    front, by_preference = figure.subplots(1, 2)
    _front(front, data["curves"])
    front.legend(fontsize=_SIZE - 2)
    _robust_by_preference(by_preference, data["curves"])
    return figure


def _figure_of_study(rows: Sequence[Plain]) -> Figure:
    """Accuracy under AutoAttack of a question's networks, one line each: seeds, their mean and its interval."""
    figure = new_figure(6.5, 0.8 + 0.26 * len(rows))
    axis = figure.subplots()
    for place, row in enumerate(rows):
        axis.plot(row["of_seeds"], [place] * len(row["of_seeds"]), "o", ms=4, color="#7f8c9b")
        if row["autoattack"]:
            axis.errorbar(row["autoattack"]["mean"], place, xerr=row["autoattack"]["half"] or 0.0, fmt="|", ms=9, lw=1,
                          color="black" if row["against"] else "#c0392b")
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    _axis(axis, "", "accuracy under AutoAttack, %", "")
    return figure


def draw(report: Plain) -> dict[str, Figure]:
    """All figures of a report, by number as text or by question of the study."""
    functions = {"2": _figure_2, "3": _figure_3, "4": _figure_4}
    return ({number: functions[number](data) for number, data in report["figures"].items()}
            | {question: _figure_of_study(rows) for question, rows in report["study"].items()})


def _captions(figures: Plain) -> dict[str, str]:
    """{figure's number: what it shows, with measured numbers}."""
    found = {}

    def volumes(data: Plain) -> str:
        return "; ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in data["hypervolume"].items())

    if "2" in figures:
        data = figures["2"]
        found["2"] = (f"{data['method']}: losses at the end of training as the preference changes, with hypervolume "
                      f"({volumes(data)}; the worst of each loss is the reference), accuracy under PGD-20 against k1, "
                      "and against the batch size at one and the same learning rate.")
    if "3" in figures:
        numbers = "; ".join(
            f"{method}: own image {data['own']:.3f}, same class {data['same_class']:.3f}, other classes "
            f"{data['other_class']:.3f}" for method, data in figures["3"].items() if data)
        found["3"] = ("Cosine similarity between the features of attacked and of natural images, PGD-20, images drawn "
                      "at random and ordered by class (lines part the classes): the diagonal from bottom left to top "
                      f"right is an image and its own attacked copy. Means: {numbers or 'none yet'}.")
    if "4" in figures:
        found["4"] = ("Conic scalarization against the weighted sum. With a = 0 the two minimise the same sum but for "
                      f"weights that differ by gamma. Hypervolume: {volumes(figures['4'])}.")
    return found


def _with_interval(number: Plain | None, style: str = ".2f") -> str:
    """Text of a report's estimate; empty for None."""
    if not number:
        return ""
    return f"{number['mean']:{style}}" + ("" if number["half"] is None else f" ± {number['half']:.2f}")


def _cell_text(cell: Plain) -> str:
    missing = "diverged" if cell["diverged"] else "not yet" if cell["at_this_scale"] else "none"
    paper = "?" if cell["paper"] is None else f"{cell['paper']:.2f}"
    difference = "" if cell["difference"] is None else f", {cell['difference']:+.2f}"
    return f"{_with_interval(cell['ours']) or missing} ({paper}{difference})"


def chance_text(table: Plain) -> str:
    """Which of a table's differences between MOREL and its baseline are beyond chance; empty without any."""
    measured = [one for one in table["differences"] if one["half"] is not None]
    if not measured:
        return ""
    beyond = [f"{one['method']} {one['attack']}, {one['checkpoint']}: {_with_interval(one, '+.2f')}"
              for one in measured if one["beyond_chance"]]
    return (f"MOREL minus its baseline, paired by seed: {len(beyond)} of {len(measured)} differences exclude zero at "
            f"95 % (by chance about {0.05 * len(measured):.1f} would){': ' + '; '.join(beyond) if beyond else ''}.")


STUDY_HEADS = ("clean, %", "AutoAttack, %", "difference under AutoAttack, points", "against",
               *(name.replace("_", " ") for name in STUDY_LOSSES))


def study_texts(row: Plain) -> list[str]:
    """A row of the study under STUDY_HEADS."""
    return [_with_interval(row["clean"]), _with_interval(row["autoattack"]), _with_interval(row["difference"], "+.2f"),
            row["against"] or "", *(f"{row[name]['mean']:.4g}" if row[name] else "" for name in STUDY_LOSSES)]


def _claim_texts(claim: Plain) -> list[str]:
    held = [f"{one['verdict']}, {one['met']} of {one['measured']}" for one in (claim["paper"], claim["ours"])]
    return [claim["text"], claim["place"], *held, claim["ours"]["beyond_chance"]]


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table, cells unpadded: some of the tables have fourteen columns."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in [heads, *rows]]
    return ["", lines[0], "|---" * len(heads) + "|", *lines[1:]]


def to_markdown(report: Plain) -> str:
    """The report as Markdown, with links to the figures beside it."""
    lines = [f"# MOREL, reproduced: {report['scale']}, {report['variant']}", "",
             f"{report['title']}. Seeds {', '.join(map(str, report['seeds']))}. Each cell: ours, mean over seeds ± "
             "half of its 95 % confidence interval; in brackets the paper's number and the difference to it."]
    lines += _table(["the paper's", "here"], [(paper, ours or "nothing at this scale")
                                              for paper, ours in report["stand_ins"].items()])
    examples = ", ".join(f"{name} {count or 'all'}" for name, count in report["examples"].items())
    lines += ["", f"Images judged: {examples}."]
    for table in report["tables"]:
        lines += ["", f"## Table {table['table']}: {table['title']}. {table['architecture']}, {table['dataset']}"]
        heads = [f"{attack}, {which}" for attack in table["attacks"] for which in table["checkpoints"]]
        lines += _table(["method", *heads], [(row["method"], *map(_cell_text, row["cells"])) for row in table["rows"]])
        lines += ["", text] if (text := chance_text(table)) else []
    for number, text in _captions(report["figures"]).items():
        lines += ["", f"## Figure {number}", "", f"![Figure {number}](figure_{number}.png)", "", text]
    for question, rows in report["study"].items():
        lines += ["", f"## {QUESTIONS[question]}", "", f"![{QUESTIONS[question]}](figure_{question}.png)",
                  *_table(["", *STUDY_HEADS], [(row["label"], *study_texts(row)) for row in rows])]
    if report["claims"]:
        lines += ["", "## What the paper says of its tables",
                  *_table(["claim", "section", "the paper's numbers", "ours", "beyond chance"],
                          map(_claim_texts, report["claims"]))]
    lines += ["", "## Where the two readings differ", *_table(["field", "paper", "reference"], [
        (f"`{line['field']}`", line["paper"], line["reference"]) for line in report["variants"]])]
    return "\n".join(lines) + "\n"


def to_html(report: Plain, images: Mapping[str, bytes]) -> str:
    """The page of what :func:`~morel_jax.reproduction.report.build` returned; ``images`` are PNG bytes by figure."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("morel_jax.reproduction", "."), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters["interval"] = _with_interval
    return environment.get_template("page.html.j2").render(
        report=report, images={number: base64.b64encode(content).decode() for number, content in images.items()},
        captions=_captions(report["figures"]), questions=QUESTIONS, study_heads=STUDY_HEADS, study_texts=study_texts,
        chance_text=chance_text)


def write(report: Plain, folder: Path) -> None:
    """Writes ``report.json``, ``report.md``, ``report.html`` and the figures into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {number: png(figure) for number, figure in draw(report).items()}
    files: dict[str, str | bytes] = {f"figure_{number}.png": content for number, content in images.items()}
    files |= {"report.json": json.dumps(report, indent=1), "report.md": to_markdown(report),
              "report.html": to_html(report, images)}
    for name, content in files.items():
        write_atomically(folder / name, content)
