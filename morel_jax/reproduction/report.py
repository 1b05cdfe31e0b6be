"""The report of a reproduction in plain values: tables, data of figures, and claims, ours beside the paper's."""
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from morel_jax.configuration import flatten
from morel_jax.evaluation.similarity import mean_similarities
from morel_jax.reproduction import paper
from morel_jax.reproduction.grid import FIGURE_METHOD, PROTOCOLS, SURROGATE_METHOD, Compared, Grid, Network, protocol
from morel_jax.reproduction.paper import Cell, Claim, estimate, paired_difference, printed
from morel_jax.reproduction.trials import HEAT_MAP, STUDY_CHECKPOINT, SURROGATE_CHECKPOINT, Reproduction, Trial
from morel_jax.training.workdir import load_content

METHOD_NAMES = {
    "trades": "TRADES", "mart": "MART", "loat": "LOAT", "morel_trades": "MOREL(←TRADES)",
    "morel_mart": "MOREL(←MART)", "morel_loat": "MOREL(←LOAT)",
    "morel_mart_no_attention": "without M_e and contrastive loss",
}
DATASET_NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny-ImageNet"}
ARCHITECTURE_NAMES = {"wide_resnet34_10": "WideResNet-34-10", "resnet18": "ResNet18", "resnet50": "ResNet50"}
ATTACK_NAMES = {
    "clean": "clean", "fgsm": "FGSM", "pgd20": "PGD-20", "pgd100": "PGD-100", "cw_linf": "CW∞",
    "avg_robust": "Avg-Robust", "autoattack": "AutoAttack", "square": "Square",
}
QUESTIONS = {
    "baselines": "Does MOREL help over its baseline?",
    "terms": "What do the cosine and the contrastive term add, and from which alpha on?",
    "batch": "How much of the gain is the batch size?",
    "scalarization": "Does it matter how the two losses are joined?",
}
# Losses in a row of the study: unweighted, means over the last epoch's steps.
STUDY_LOSSES = ("cosine_loss", "contrastive_loss", "classification_loss")


def build(reproduction: Reproduction) -> dict[str, Any]:
    """The report of the results in a folder, which does not depend on when or where they were made.

    Returns:
        Plain values: ``scale``, ``variant``, ``tables``, ``figures``, ``study``, ``claims``, ``variants`` (fields in
        which the two readings differ).
    """
    grid = reproduction.grid
    return {
        "scale": grid.scale.name, "title": grid.scale.title, "variant": grid.variant,
        "stand_ins": _stand_ins(grid), "seeds": list(grid.scale.seeds), "examples": grid.scale.examples,
        "tables": [table for number in reproduction.tables for table in _tables(number, reproduction)],
        "figures": _figures(reproduction),
        "study": {question: _question(reproduction, lines) for question, lines in grid.study.items()}
        if reproduction.study else {},
        "claims": [_claim(claim, reproduction) for claim in paper.CLAIMS] if reproduction.tables else [],
        "variants": _variants(grid),
    }


def _stand_ins(grid: Grid) -> dict[str, str | None]:
    """{the paper's data set or network: what stands for it here, or None}."""
    scale, found = grid.scale, {}
    for dataset, name in DATASET_NAMES.items():
        source = scale.sources.get(dataset)
        found[name] = source and grid.config(Network(source, scale.surrogate, SURROGATE_METHOD)).data.name
    stand_ins = scale.architectures | {"resnet50": scale.surrogate}
    return found | {name: stand_ins.get(architecture) for architecture, name in ARCHITECTURE_NAMES.items()}


def _dict(one: Any) -> dict[str, Any] | None:
    """A dataclass as a dict; None stays None."""
    return one and dataclasses.asdict(one)


def _distinct(cells: Iterable[Cell], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(cell, field) for cell in cells))


def _tables(number: int, reproduction: Reproduction) -> list[dict[str, Any]]:
    """One dict for each data set and network of a table of the paper."""
    tables, own = [], [cell for cell in printed() if cell.table == number]
    for (dataset, architecture), cells in itertools.groupby(own, key=lambda cell: (cell.dataset, cell.architecture)):
        group = list(cells)
        attacks = _distinct(group, "attack")
        checkpoints = [which for which in paper.CHECKPOINTS if which in _distinct(group, "checkpoint")]
        by_key = {(cell.method, cell.attack, cell.checkpoint): cell for cell in group}
        rows = [{"method": METHOD_NAMES[method], "cells": [
            _cell(by_key[key], reproduction) for key in itertools.product([method], attacks, checkpoints)]}
            for method in _distinct(group, "method")]
        tables.append({
            "table": number, "title": paper.TITLES[number], "dataset": DATASET_NAMES[dataset],
            "architecture": ARCHITECTURE_NAMES[architecture], "attacks": [ATTACK_NAMES[attack] for attack in attacks],
            "checkpoints": checkpoints, "rows": rows, "differences": _differences(by_key, reproduction)})
    return tables


def _differences(by_key: Mapping[tuple[str, str, str], Cell], reproduction: Reproduction) -> list[dict[str, Any]]:
    """MOREL minus its baseline wherever a table has both and ours are there, paired by seed: Estimates with
    ``method``, ``attack``, ``checkpoint`` and ``beyond_chance``."""
    found = []
    for (method, attack, checkpoint), cell in by_key.items():
        other = by_key.get((method.removeprefix("morel_"), attack, checkpoint))
        if other is None or other is cell:
            continue
        difference = paired_difference(reproduction.values(cell), reproduction.values(other))
        if difference is not None:
            found.append({"method": METHOD_NAMES[method], "attack": ATTACK_NAMES[attack], "checkpoint": checkpoint,
                          **dataclasses.asdict(difference), "beyond_chance": difference.beyond_chance})
    return found


def _cell(cell: Cell, reproduction: Reproduction) -> dict[str, Any]:
    ours, theirs = estimate(list(reproduction.values(cell).values())), printed()[cell]
    network = reproduction.grid.network(cell)
    trials = reproduction.trials_of(network) if network else []
    return {"name": cell.name, "paper": theirs, "ours": _dict(ours),
            "difference": ours.mean - theirs if ours and theirs is not None else None,
            "diverged": [trial.seed for trial in trials if trial.diverged_at() is not None],
            "at_this_scale": network is not None}


def _last(trial: Trial, field: str) -> float | None:
    history = trial.history()
    return history[-1].get(field) if history and trial.diverged_at() is None else None


def _best(trial: Trial) -> float | None:
    return max((line["robust_accuracy"] for line in trial.history() if "robust_accuracy" in line), default=None)


def _mean(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Estimate from the values that are not None, as a dict; None where there are none."""
    return _dict(estimate([value for value in values if value is not None]))


def _curve(reproduction: Reproduction, networks: Mapping[Any, Network]) -> list[dict[str, Any]]:
    """[{"at", "representation_loss", "classification_loss", "best", "last"}], means over seeds; whole points only."""
    points = []
    for at, network in networks.items():
        trials = [trial for trial in reproduction.trials_of(network) if trial.is_trained()]
        first, second, last = (_mean(_last(trial, field) for trial in trials)
                               for field in ("representation_loss", "classification_loss", "robust_accuracy"))
        point = {"at": at, "representation_loss": first, "classification_loss": second,
                 "best": _mean(map(_best, trials)), "last": last}
        if None not in point.values():
            points.append(point)
    return points


def hypervolume(points: Sequence[tuple[float, float]], reference: Sequence[float]) -> float:
    """Area that a front of two losses dominates; smaller losses are better.

    Args:
        points: (L1, L2) of each.
        reference: the worst value of each loss that still counts. The area is 0 where no point is below both.
    """
    area, ceiling = 0.0, reference[1]
    for first, second in sorted(points):
        if first < reference[0] and second < ceiling:
            area += (reference[0] - first) * (ceiling - second)
            ceiling = second
    return area


def _with_hypervolume(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Adds each curve's hypervolume; the reference is the worst value of each loss on any of them."""
    points = {name: [(one["representation_loss"]["mean"], one["classification_loss"]["mean"]) for one in curve]
              for name, curve in curves.items()}
    every = [point for own in points.values() for point in own]
    if not every:
        return {"curves": curves, "hypervolume": {}, "reference": None}
    reference = [float(value) for value in np.max(every, axis=0)]
    return {"curves": curves, "reference": reference,
            "hypervolume": {name: hypervolume(own, reference) for name, own in points.items()}}


def _figures(reproduction: Reproduction) -> dict[str, Any]:
    grid, found = reproduction.grid, {}
    curves = {name: _curve(reproduction, networks) for name, networks in grid.preferences.items()
              if 4 in reproduction.figures or (2 in reproduction.figures and name == "conic")}
    if 2 in reproduction.figures:
        found["2"] = _with_hypervolume({"conic": curves["conic"]}) | {
            "batch_sizes": _curve(reproduction, grid.batch_sizes), "method": METHOD_NAMES[FIGURE_METHOD]}
    if 3 in reproduction.figures:
        found["3"] = {METHOD_NAMES[method]: _heat_map(reproduction, network)
                      for method, network in grid.heat_maps.items()}
    if 4 in reproduction.figures:
        found["4"] = _with_hypervolume(curves)
    return found


def _heat_map(reproduction: Reproduction, network: Network) -> dict[str, Any] | None:
    """The map and its mean similarities: to an image's own copy, to others of its class, and to other classes."""
    found = reproduction.trials_of(network)[0].evaluation(SURROGATE_CHECKPOINT, HEAT_MAP).heat_map()
    if found is None:
        return None
    similarity, labels = found
    means = mean_similarities(similarity, labels)
    return {"similarity": similarity.round(4).tolist(), "labels": labels.tolist()} | means


def _question(reproduction: Reproduction, lines: Mapping[str, Compared]) -> list[dict[str, Any]]:
    """Rows of a question: each network's accuracies, clean and under AutoAttack, and the difference to another's.

    A row is {"label", "against", "of_seeds", "clean", "autoattack", "difference"} and STUDY_LOSSES. ``of_seeds`` has
    the accuracy under AutoAttack for each seed, of which the difference is paired by seed; a loss is a mean over seeds.
    """
    clean, robust = ({label: reproduction.accuracies(line.network, STUDY_CHECKPOINT, "autoattack", column)
                      for label, line in lines.items()} for column in ("clean", "autoattack"))
    rows = []
    for label, line in lines.items():
        trials = [trial for trial in reproduction.trials_of(line.network) if trial.is_trained()]
        difference = paired_difference(robust[label], robust[line.against]) if line.against else None
        rows.append({"label": label, "against": line.against, "of_seeds": list(robust[label].values()),
                     "clean": _mean(clean[label].values()), "autoattack": _mean(robust[label].values()),
                     "difference": _dict(difference)}
                    | {loss: _mean(_last(trial, loss) for trial in trials) for loss in STUDY_LOSSES})
    return rows


def _claim(claim: Claim, reproduction: Reproduction) -> dict[str, Any]:
    return {"text": claim.text, "place": claim.place, "paper": _dict(claim.check(paper.printed_values)),
            "ours": _dict(claim.check(reproduction.values))}


def _variants(grid: Grid) -> list[dict[str, Any]]:
    """[{"field", "paper", "reference"}]: where the two readings differ, for the network of the figures."""
    readings = [flatten(Grid(grid.scale, name, grid.configs, grid.data).config(grid.heat_maps[FIGURE_METHOD]))
                for name in ("paper", "reference")]
    return [{"field": field, "paper": value, "reference": readings[1][field]}
            for field, value in readings[0].items() if value != readings[1][field] and field != "variant"]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} %"


def explain(reproduction: Reproduction, cell: Cell) -> str:
    """Text on a cell: its numbers, and for each trial its folder, commit, config and evaluation."""
    grid, (name, column) = reproduction.grid, protocol(cell)
    lines = [f"cell       {cell.name}", f"paper      {_percent(printed()[cell])}"]
    network = grid.network(cell)
    if network is None:
        return "\n".join([*lines, f"ours       nothing stands for it at scale {grid.scale.name}"])
    found = reproduction.values(cell)
    ours = estimate(list(found.values()))
    interval = f", 95 % interval ± {ours.half:.2f} over {ours.count} seeds" if ours and ours.half is not None else ""
    lines += [f"ours       {_percent(ours.mean if ours else None)}{interval}",
              f"judged by  {', '.join(PROTOCOLS[name])} on {grid.scale.examples[name] or 'all'} test images, "
              f"checkpoint {cell.checkpoint}; the number is {column!r} of summary.json"]
    if cell.threat == "transfer":
        lines.append(f"surrogate  {reproduction.surrogate_of(network).folder}")
    trials = reproduction.trials_of(network)
    for trial in trials:
        written = load_content(trial.folder) if (trial.folder / "config.json").exists() else {}
        lines += ["", f"seed {trial.seed}     {_percent(found.get(trial.seed))}", f"  run      {trial.folder}",
                  f"  results  {trial.evaluation(cell.checkpoint, name).folder}",
                  f"  commit   {written.get('commit') or 'not run yet'}"]
        if trial.diverged_at() is not None:
            lines.append(f"  diverged at step {trial.diverged_at()}")
    return "\n".join([*lines, "", f"config     {grid.configs}/{network.source}.py:{grid.spec(network)}",
                      *(f"  {field} = {value!r}" for field, value in flatten(trials[0].member.config).items())])
