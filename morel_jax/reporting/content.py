"""What a report shows: charts, tables and pictures of some runs, as a template takes them."""
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from morel_jax.reporting import pictures
from morel_jax.reporting.chart import Curve, line_chart
from morel_jax.reporting.judgements import CLEAN, WORST, Judgement, find_judgements
from morel_jax.reporting.runs import ReportedRun

# Accuracies that lie closer than this, in points, are not blown up to the height of a chart.
_LEAST_POINTS = 5.0
# With more, a table of judgements has a row for each, and with fewer a column.
_MOST_COLUMNS = 3
_TITLES = {
    "robust_accuracy": "robust accuracy in validation, %", "clean_accuracy": "clean accuracy in validation, %",
    "natural_accuracy": "accuracy on natural training images, %",
    "adversarial_accuracy": "accuracy on attacked training images, %", "loss": "training loss",
    "images_per_second": "images per second", "seconds": "seconds per epoch",
}
_FIRST = ("robust_accuracy", "clean_accuracy", "natural_accuracy", "adversarial_accuracy", "loss")
_GROUPS = ("Accuracy", "Losses and objectives", "Gradients and others", "Schedule and speed")
_SCHEDULE = ("learning_rate", "images_per_second", "seconds")


def _group(metric: str) -> str:
    if metric.endswith("_accuracy"):
        return _GROUPS[0]
    if metric.endswith("loss"):
        return _GROUPS[1]
    return _GROUPS[3] if metric in _SCHEDULE else _GROUPS[2]


def _chart(metric: str, runs: Sequence[ReportedRun]) -> tuple[str, Markup]:
    title, share = _TITLES.get(metric, metric.replace("_", " ")), metric.endswith("_accuracy")
    curves = [Curve(run.name, number, [(line["epoch"], (100 if share else 1) * line[metric])
                                       for line in run.history if metric in line],
                    run.best.get("epoch") if metric in ("robust_accuracy", "clean_accuracy") else None)
              for number, run in enumerate(runs)]
    return title, line_chart(title, curves, least=_LEAST_POINTS if share else 0.0,
                             bounds=(0.0, 100.0) if share else None)


def training_charts(runs: Sequence[ReportedRun]) -> dict[str, list[tuple[str, Markup]]]:
    """{heading: [(title, chart)]} of every number that the runs' histories have."""
    found = {name for run in runs for line in run.history for name in line} - {"epoch", "step"}
    groups: dict[str, list[tuple[str, Markup]]] = {name: [] for name in _GROUPS}
    for metric in sorted(found, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)):
        groups[_group(metric)].append(_chart(metric, runs))
    return {name: charts for name, charts in groups.items() if charts}


def _by_threat(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    groups: dict[str, list[Judgement]] = {}
    for one in judgements:
        groups.setdefault(one.threat, []).append(one)
    return groups


def _table(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Heads, and rows of (name, run or None, cells): few judgements are columns, many are rows."""
    columns = list(dict.fromkeys(name for one in judgements for name in one.columns if name != WORST))
    columns += [WORST] if any(WORST in one.columns for one in judgements) else []
    if len(judgements) > _MOST_COLUMNS:
        return {"heads": [(name, None) for name in columns], "of": "run",
                "rows": [(one.name, one.run, [one.columns.get(name) for name in columns]) for one in judgements]}
    return {"heads": [(one.name, one.run) for one in judgements], "of": "attack",
            "rows": [(name, None, [one.columns.get(name) for one in judgements]) for name in columns]}


def _weakest(judgement: Judgement) -> tuple[str, Any] | None:
    """(attack, Share): the worst case, or the attack that leaves least; None where none was run."""
    attacked = {name: share for name, share in judgement.columns.items() if name != CLEAN}
    name = WORST if WORST in attacked else min(attacked, key=lambda one: attacked[one].accuracy, default=None)
    return (name, attacked[name]) if name else None


def _radius_charts(judgements: Sequence[Judgement]) -> list[tuple[str, Markup]]:
    """Robust accuracy by radius: of the report cards' PGD, and of minimum-norm attacks; of each run's first alone."""
    charts, seen = [], {one.run: one for one in reversed(judgements)}
    judgements = [one for one in judgements if seen[one.run] is one]
    cards = [one for one in judgements if one.card and one.card["epsilons"]]
    if cards:
        epsilon = cards[0].card["epsilon"] if cards[0].card else 0.0
        curves = [Curve(one.name, one.run, [(radius, 100 * share) for radius, share in zip(
            one.card["epsilons"], one.card["epsilon_accuracies"], strict=False)]) for one in cards if one.card]
        title = "robust accuracy by radius, PGD-20, %"
        charts.append((title, line_chart(
            title, curves, "epsilon", bounds=(0.0, 100.0), x_scale=lambda x: math.asinh(x / epsilon), x_mark=epsilon,
            x_ticks=[x for x in (0, epsilon, 10 * epsilon) if x <= max(p[0] for c in curves for p in c.points)])))
    nearest = [one for one in judgements if one.curve and one.curve["radii"][-1] > 0]
    if nearest:
        curves = [Curve(one.name, one.run, list(_stairs(one.curve))) for one in nearest if one.curve]
        title = "robust accuracy by radius, nearest image, %"
        charts.append((title, line_chart(title, curves, "epsilon", bounds=(0.0, 100.0),
                                         x_ticks=_round_ticks(max(c.points[-1][0] for c in curves)))))
    return charts


def _round_ticks(end: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(end)) / (1 if end / 10.0 ** math.floor(math.log10(end)) >= 3 else 4)
    return [step * place for place in range(math.floor(end / step) + 1)]


def _stairs(curve: Mapping[str, Any]) -> Iterable[tuple[float, float]]:
    before = None
    for radius, share in zip(curve["radii"], curve["accuracies"], strict=False):
        if before is not None:
            yield radius, before
        yield radius, 100 * share
        before = 100 * share


def _differences(runs: Sequence[ReportedRun]) -> list[tuple[str, list[Any]]]:
    """Fields of the config in which the runs differ, with each one's value."""
    known = [run.config for run in runs if run.config]
    fields = dict.fromkeys(field for config in known for field in config)
    return [(field, [run.config.get(field) for run in runs]) for field in fields
            if len({repr(config.get(field)) for config in known}) > 1]


def _environment(runs: Sequence[ReportedRun]) -> list[tuple[str, list[str]]]:
    """Versions, commit and data of each run; one value where all have the same."""
    facts = [_facts(run) for run in runs]
    rows = [(name, [one.get(name, "unknown") for one in facts]) for name in dict.fromkeys(
        name for one in facts for name in one)]
    return [(name, values if len(set(values)) > 1 else values[:1]) for name, values in rows]


def _facts(run: ReportedRun) -> dict[str, str]:
    if not run.content:
        return {}
    data = run.content.get("data", {})
    facts = run.content["versions"] | {"commit": run.content["commit"] or "unknown: installed from a wheel"}
    facts |= {text: data[name] for name, text in (
        ("name", "data set"), ("train_images", "training images"), ("test_images", "test images"),
        ("num_classes", "classes")) if name in data}
    if "image_shape" in data:
        facts["image shape"] = " x ".join(map(str, data["image_shape"]))
    return {name: str(value) for name, value in facts.items()}


def _uris(gallery: pictures.Gallery) -> dict[str, Any]:
    rows = gallery.shown
    return {
        "attack": gallery.attack, "count": len(gallery.labels),
        "images": [(pictures.image_uri(gallery.x[row]), gallery.class_names[gallery.labels[row]]) for row in rows],
        "networks": [{
            "run": one.run,
            "perturbations": [pictures.perturbation_uri(one.x_adv[row] - gallery.x[row], gallery.epsilon)
                              for row in rows],
            "attacked": [(pictures.image_uri(one.x_adv[row]),
                          gallery.class_names[one.after[row]] if one.after[row] >= 0 else "not finite",
                          one.after[row] == gallery.labels[row]) for row in rows],
            "heat_map": pictures.heat_map_uri(one.similarity), "similarities": pictures.similarities(one, gallery),
        } for one in gallery.networks]}


def build(runs: Sequence[ReportedRun], images: int = 0) -> dict[str, Any]:
    """What the page shows of the runs, by the names in its template.

    Args:
        images: how many test images of each run's ``best`` network are attacked for pictures; 0: no pictures.
    """
    judgements, corrupted, notes = find_judgements(runs)
    galleries, missing = pictures.draw_galleries(runs, images) if images else ([], [])
    return {
        "runs": runs, "charts": training_charts(runs),
        "judged": [{"threat": threat, "table": _table(group), "judgements": group,
                    "weakest": [_weakest(one) for one in group], "charts": _radius_charts(group)}
                   for threat, group in _by_threat(judgements).items()],
        "corrupted": corrupted, "galleries": [_uris(one) for one in galleries],
        "differences": _differences(runs), "environment": _environment(runs),
        "notes": [note for run in runs for note in run.notes] + notes + missing,
    }
