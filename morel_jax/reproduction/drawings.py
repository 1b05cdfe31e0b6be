"""The paper's figures, redrawn from a report, and the study's."""
import numpy as np

from morel_jax.evaluation.figures import new_figure

# App. B: WS red, CS black.
_STYLES = {"conic": dict(color="black", label="conic scalarization"),
           "weighted_sum": dict(color="#c0392b", label="weighted sum")}
_SIZE = 8


def _axis(axis, title, x, y):
    axis.set_title(title, fontsize=_SIZE + 1)
    axis.set_xlabel(x, fontsize=_SIZE)
    axis.set_ylabel(y, fontsize=_SIZE)
    axis.tick_params(labelsize=_SIZE - 1)
    axis.grid(alpha=0.3)


def _column(curve, name, factor=1.0):
    """(positions, means, half intervals) of a curve; no interval counts as zero width."""
    return ([point["at"] for point in curve], [factor * point[name]["mean"] for point in curve],
            [factor * (point[name]["half"] or 0.0) for point in curve])


def _front(axis, curves):
    for name, curve in curves.items():
        _, first, first_half = _column(curve, "representation_loss")
        at, second, second_half = _column(curve, "classification_loss")
        axis.errorbar(first, second, second_half, first_half, "o-", ms=3, lw=1, **_STYLES[name])
        for k1, x, y in zip(at, first, second, strict=True):
            axis.annotate(f"{k1:g}", (x, y), textcoords="offset points", xytext=(4, 3), fontsize=_SIZE - 2,
                          color=_STYLES[name]["color"])
    _axis(axis, "losses at the end of training, by $k_1$", "$L_1$, representation", "$L_2$, classification")


def _percent(axis):
    """Cuts the axis to what a percentage can be; intervals of few seeds reach further."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, 0), min(high, 100))


def _robust_by_preference(axis, curves):
    for name, curve in curves.items():
        for which, line in (("best", "o-"), ("last", "o:")):
            at, mean, half = _column(curve, which, 100)
            style = _STYLES[name] | {"label": f"{_STYLES[name]['label']}, {which}"}
            axis.errorbar(at, mean, half, fmt=line, ms=3, lw=1, **style)
    _axis(axis, "accuracy under PGD-20, %", "$k_1$", "")
    _percent(axis)
    axis.legend(fontsize=_SIZE - 2)


def figure_2(data):
    """Pareto front, robust accuracy by k1, robust accuracy by batch size."""
    figure = new_figure(10, 3.2)
    front, by_preference, by_batch = figure.subplots(1, 3)
    _front(front, data["curves"])
    _robust_by_preference(by_preference, data["curves"])
    for which, line in (("best", "o-"), ("last", "o:")):
        at, mean, half = _column(data["batch_sizes"], which, 100)
        by_batch.errorbar(range(len(at)), mean, half, fmt=line, ms=3, lw=1, color="black", label=which)
    by_batch.set_xticks(range(len(at)), map(str, at))
    _axis(by_batch, "accuracy under PGD-20, %", "batch size", "")
    _percent(by_batch)
    by_batch.legend(fontsize=_SIZE - 2)
    return figure


def figure_3(data):
    """Similarities between features of attacked and of natural images; one map a method."""
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
        labels = np.array(heat_map["labels"])
        for place in np.flatnonzero(np.diff(labels)) + 0.5:
            axis.axvline(place, color="black", lw=0.3)
            axis.axhline(place, color="black", lw=0.3)
        axis.tick_params(labelsize=_SIZE - 2)
        figure.colorbar(shown, ax=axis, shrink=0.7).ax.tick_params(labelsize=_SIZE - 2)
    return figure


def figure_4(data):
    """Conic scalarization against the weighted sum."""
    figure = new_figure(7.5, 3.2)
    front, by_preference = figure.subplots(1, 2)
    _front(front, data["curves"])
    front.legend(fontsize=_SIZE - 2)
    _robust_by_preference(by_preference, data["curves"])
    return figure


def study(rows):
    """Accuracy under AutoAttack of a question's networks: each seed, their mean, its interval; one line a network."""
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


def draw(report):
    """{figure's number as text, or question of the study: matplotlib figure} of all figures in a report."""
    functions = {"2": figure_2, "3": figure_3, "4": figure_4}
    return ({number: functions[number](data) for number, data in report["figures"].items()}
            | {question: study(rows) for question, rows in report["study"].items()})
