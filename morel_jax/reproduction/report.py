"""The report of a reproduction in plain values: tables, figures' data and claims, ours beside the paper's."""
import dataclasses
import itertools

import numpy as np

from morel_jax.configuration import flatten
from morel_jax.reproduction import cells, claims
from morel_jax.reproduction.estimate import estimate, paired_difference
from morel_jax.reproduction.grid import FIGURE_METHOD, SURROGATE_METHOD, Grid, Network
from morel_jax.reproduction.plan import HEAT_MAP, STUDY_CHECKPOINT, SURROGATE_CHECKPOINT, accuracies, values

CHECKPOINTS = ("best", "last")
METHOD_NAMES = {
    "trades": "TRADES", "mart": "MART", "loat": "LOAT", "morel_trades": "MOREL(←TRADES)",
    "morel_mart": "MOREL(←MART)", "morel_loat": "MOREL(←LOAT)",
    "morel_mart_no_attention": "without M_e and contrastive loss",
}
DATASET_NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny-ImageNet"}
ARCHITECTURE_NAMES = {"resnet18": "ResNet18", "wide_resnet34_10": "WideResNet-34-10", "resnet50": "ResNet50"}
ATTACK_NAMES = {
    "clean": "clean", "fgsm": "FGSM", "pgd20": "PGD-20", "pgd100": "PGD-100", "cw_linf": "CW∞",
    "avg_robust": "Avg-Robust", "autoattack": "AutoAttack", "square": "Square",
}


def build(plan):
    """What the report shows, of what is there; it depends on the results alone, not on when or where they were made.

    Args:
        plan: :class:`~morel_jax.reproduction.plan.Plan`.

    Returns:
        dict of plain values: ``scale``, ``variant``, ``tables``, ``figures``, ``study``, ``claims``, ``variants``
        (fields in which the two readings differ).
    """
    grid = plan.grid

    def measured(cell):
        return values(plan, cell)

    return {
        "scale": grid.scale.name, "title": grid.scale.title, "variant": grid.variant,
        "stand_ins": _stand_ins(grid), "seeds": list(grid.scale.seeds), "examples": grid.scale.examples,
        "tables": [table for number in plan.tables for table in _tables(number, measured, plan)],
        "figures": _figures(plan),
        "study": _study(plan) if plan.study else {},
        "claims": [_claim(claim, measured) for claim in claims.CLAIMS] if plan.tables else [],
        "variants": _variants(grid),
    }


def _stand_ins(grid):
    """{the paper's name of a data set or network: what stands for it here, or None}."""
    scale, found = grid.scale, {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells.printed()):
        source = scale.sources.get(dataset)
        network = Network(source, scale.surrogate, SURROGATE_METHOD)
        found[DATASET_NAMES[dataset]] = grid.config(network).data.name if source else None
    for architecture in dict.fromkeys(cell.architecture for cell in cells.printed()):
        found[ARCHITECTURE_NAMES[architecture]] = scale.architectures.get(architecture)
    return found | {ARCHITECTURE_NAMES["resnet50"]: scale.surrogate}


def _tables(number, measured, plan):
    """One dict a data set and network of a table of the paper."""
    own = [cell for cell in cells.printed() if cell.table == number]
    tables = []
    for (dataset, architecture), members in itertools.groupby(own, key=lambda cell: (cell.dataset, cell.architecture)):
        group = list(members)
        attacks = list(dict.fromkeys(cell.attack for cell in group))
        checkpoints = [which for which in CHECKPOINTS if any(cell.checkpoint == which for cell in group)]
        rows = []
        for method in dict.fromkeys(cell.method for cell in group):
            own_cells = {(cell.attack, cell.checkpoint): cell for cell in group if cell.method == method}
            rows.append({"method": METHOD_NAMES[method], "cells": [
                _cell(own_cells[key], measured, plan) for key in itertools.product(attacks, checkpoints)]})
        tables.append({
            "table": number, "title": cells.TITLES[number], "dataset": DATASET_NAMES[dataset],
            "architecture": ARCHITECTURE_NAMES[architecture], "attacks": [ATTACK_NAMES[attack] for attack in attacks],
            "checkpoints": checkpoints, "rows": rows})
    return tables


def _cell(cell, measured, plan):
    found = measured(cell)
    ours, paper = estimate(list(found.values())), cells.printed()[cell]
    network = plan.grid.network(cell)
    diverged = [run.seed for run in plan.runs_of(network) if run.diverged_at() is not None] if network else []
    return {"name": cell.name, "paper": paper, "ours": ours and dataclasses.asdict(ours),
            "difference": ours.mean - paper if ours and paper is not None else None, "diverged": diverged,
            "at_this_scale": network is not None}


def _last(run, field):
    history = run.history()
    return history[-1].get(field) if history and run.diverged_at() is None else None


def _best(run):
    judged = [line["robust_accuracy"] for line in run.history() if "robust_accuracy" in line]
    return max(judged, default=None)


def _curve(plan, networks):
    """[{"at", "representation_loss", "classification_loss", "best", "last"}], means over seeds; whole points only."""
    points = []
    for at, network in networks.items():
        runs = [run for run in plan.runs_of(network) if run.is_trained()]
        columns = {"representation_loss": [_last(run, "representation_loss") for run in runs],
                   "classification_loss": [_last(run, "classification_loss") for run in runs],
                   "best": [_best(run) for run in runs], "last": [_last(run, "robust_accuracy") for run in runs]}
        known = {name: [value for value in column if value is not None] for name, column in columns.items()}
        if all(known.values()):
            points.append({"at": at} | {name: dataclasses.asdict(estimate(column)) for name, column in known.items()})
    return points


def hypervolume(points, reference):
    """Area that a front of two losses dominates, both the smaller the better.

    Args:
        points: list of (L1, L2).
        reference: the worst of both that still counts.

    Returns:
        float; 0 where no point is below the reference in both.
    """
    area, ceiling = 0.0, reference[1]
    for first, second in sorted(points):
        if first < reference[0] and second < ceiling:
            area += (reference[0] - first) * (ceiling - second)
            ceiling = second
    return area


def _with_hypervolume(curves):
    """Adds to each curve its hypervolume, all against the worst of both losses that any of them has."""
    points = {name: [(one["representation_loss"]["mean"], one["classification_loss"]["mean"]) for one in curve]
              for name, curve in curves.items()}
    every = [point for own in points.values() for point in own]
    if not every:
        return {"curves": curves, "hypervolume": {}, "reference": None}
    reference = [float(value) for value in np.max(every, axis=0)]
    return {"curves": curves, "reference": reference,
            "hypervolume": {name: hypervolume(own, reference) for name, own in points.items()}}


def _figures(plan):
    grid, found = plan.grid, {}
    if 2 in plan.figures:
        found["2"] = _with_hypervolume({"conic": _curve(plan, grid.preferences["conic"])}) | {
            "batch_sizes": _curve(plan, grid.batch_sizes), "method": METHOD_NAMES[FIGURE_METHOD]}
    if 3 in plan.figures:
        found["3"] = {METHOD_NAMES[method]: _heat_map(plan, network) for method, network in grid.heat_maps.items()}
    if 4 in plan.figures:
        found["4"] = _with_hypervolume({name: _curve(plan, networks) for name, networks in grid.preferences.items()})
    return found


def _heat_map(plan, network):
    """{"similarity", "labels", "own", "others"}: the map, and mean similarity to the own image and to the others."""
    found = plan.runs_of(network)[0].judgement(SURROGATE_CHECKPOINT, HEAT_MAP).heat_map()
    if found is None:
        return None
    similarity, labels = found
    same_class = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    return {"similarity": similarity.round(4).tolist(), "labels": labels.tolist(),
            "own": float(np.diag(similarity).mean()), "same_class": float(similarity[same_class].mean()),
            "other_class": float(similarity[labels[:, None] != labels].mean())}


QUESTIONS = {
    "baselines": "Does MOREL help over its baseline?",
    "terms": "What do the cosine and the contrastive term add, and from which alpha on?",
    "batch": "How much of the gain is the batch size?",
    "scalarization": "Does it matter how the two losses are joined?",
}


# What a study's row shows of the training: losses before their weights, means over the last epoch's steps.
STUDY_LOSSES = ("cosine_loss", "contrastive_loss", "classification_loss")


def _study(plan):
    """{question: rows}: each network's accuracies, clean and under AutoAttack, and how far it is from another's.

    A row is {"label", "against", "clean", "autoattack", "difference", "of_seeds"} and STUDY_LOSSES: the difference is
    of AutoAttack's accuracies and paired by seed, ``of_seeds`` has AutoAttack's of each, a loss is a mean over seeds.
    """
    found: dict = {}
    for question, lines in plan.grid.study.items():
        measured = {label: {column: accuracies(plan, line.network, STUDY_CHECKPOINT, "autoattack", column)
                            for column in ("clean", "autoattack")} for label, line in lines.items()}
        found[question] = []
        for label, line in lines.items():
            clean, robust = measured[label]["clean"], measured[label]["autoattack"]
            numbers = {"clean": estimate(list(clean.values())), "autoattack": estimate(list(robust.values())),
                       "difference": paired_difference(robust, measured[line.against]["autoattack"])
                       if line.against else None}
            for loss in STUDY_LOSSES:
                of_seeds = [_last(run, loss) for run in plan.runs_of(line.network) if run.is_trained()]
                numbers[loss] = estimate([value for value in of_seeds if value is not None])
            found[question].append(
                {"label": label, "against": line.against, "of_seeds": list(robust.values())}
                | {name: one and dataclasses.asdict(one) for name, one in numbers.items()})
    return found


def _claim(claim, measured):
    return {"text": claim.text, "place": claim.place,
            "paper": dataclasses.asdict(claims.judge(claim, claims.printed_values)),
            "ours": dataclasses.asdict(claims.judge(claim, measured))}


def _variants(grid):
    """[{"field", "paper", "reference"}]: where the two readings differ, for the network of the figures."""
    network = grid.heat_maps[FIGURE_METHOD]
    readings = {name: flatten(Grid(grid.scale, name, grid.configs, grid.data).config(network))
                for name in ("paper", "reference")}
    return [{"field": field, "paper": value, "reference": readings["reference"][field]}
            for field, value in readings["paper"].items() if value != readings["reference"][field]
            and field != "variant"]
