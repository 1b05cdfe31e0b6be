"""Figures of ``docs/study.md``."""
import numpy as np

from benchmarks.study.page import (
    BATCHES,
    BLUE,
    COMPARISONS,
    CONFIRMED,
    GREY,
    IMAGES,
    RED,
    WAYS,
    paired,
    screened_values,
    there,
)
from benchmarks.study.results import verdicts
from benchmarks.study.statistics import difference
from morel_jax.evaluation.figures import new_figure

FACTORS = ("k1", "alpha of a mean, log10", "temperature, log10", "cosine weight, log10")


def draw(results):
    """Writes each figure whose groups are there."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    _differences(results, COMPARISONS, "differences")
    _differences(results, CONFIRMED, "confirmed")
    _differences(results, BATCHES, "batches")
    _differences(results, WAYS, "ways")
    for suffix, name in (("", "long"), ("_overfit", "overfit")):
        if {f"mart{suffix}", f"morel_mart{suffix}"} <= set(results):
            _over_training(results[f"mart{suffix}"], results[f"morel_mart{suffix}"], name)
    if "screening" in results:
        _screening(results["screening"])


def _save(figure, name):
    figure.savefig(IMAGES / f"{name}.png", dpi=110, metadata={"Software": None})


def _differences(results, comparisons, name):
    """A line each: seeds, their mean, the interval for other seeds and images."""
    pairs = there(results, comparisons)
    if not pairs:
        return
    figure = new_figure(7, 1 + 0.45 * len(pairs))
    axis = figure.subplots()
    for place, pair in enumerate(pairs):
        found = difference(*(verdicts(networks, pair.under) for networks in paired(results, pair)))
        axis.plot(found.by_seed, np.full(len(found.by_seed), place), "o", ms=4, color=GREY, alpha=0.6)
        axis.errorbar(found.mean, place, xerr=found.half, fmt="|", ms=12, lw=2, color=RED, capsize=4)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(pairs)), [pair.label for pair in pairs])
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.set_xlabel("robust accuracy minus the base's, points")
    axis.grid(axis="x", alpha=0.3)
    _save(figure, name)


def _over_training(base, morel, name):
    """Both arms over the epochs: accuracy, likeness of features, and MOREL's terms in the gradient."""
    figure = new_figure(11, 3.4)
    accuracy, features, shares = figure.subplots(1, 3)
    for networks, label, color in ((base, "MART", GREY), (morel, "MOREL over MART", RED)):
        epochs = [int(epoch) for epoch in networks[0]["stages"]]
        means = {key: np.mean([[look[key] for look in network["stages"].values()] for network in networks], 0)
                 for key in networks[0]["stages"][str(epochs[0])]}
        validated = np.mean([[[line[key] for key in ("epoch", "adversarial_accuracy", "robust_accuracy")]
                              for line in network["validated"]] for network in networks], axis=0)
        accuracy.plot(validated[:, 0], 100 * validated[:, 1], "--", color=color, label=f"{label}, in training")
        accuracy.plot(validated[:, 0], 100 * validated[:, 2], "-", color=color, label=f"{label}, held out")
        for key, style in (("own", "-"), ("same_class", "--"), ("other_class", ":")):
            features.plot(epochs, means[key], style, color=color, label=f"{label}, {key.replace('_', ' ')}")
        if "cosine_share" in means:
            shares.plot(epochs, 100 * means["cosine_share"], "o-", color=BLUE, label="cosine term")
            shares.plot(epochs, 100 * means["contrastive_share"], "o-", color=RED, label="contrastive term")
    shares.set_yscale("log")
    for axis, title in ((accuracy, "accuracy under PGD, %"), (features, "cosine of features, attacked to natural"),
                        (shares, "a term's gradient, % of classification's")):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, **({"loc": "center right", "bbox_to_anchor": (1, 0.32)} if axis is features else {}))
    _save(figure, f"training_{name}")


def _screening(networks):
    """Accuracy by each number of the screened settings; crosses are networks with both terms off."""
    figure = new_figure(11, 3)
    on = [one for one in networks if one["settings"]["morel.cosine_weight"]]
    off = [one for one in networks if not one["settings"]["morel.cosine_weight"]]
    values, accuracy = screened_values(on), 100 * verdicts(on, "pgd20").mean(1)
    for place, axis in enumerate(figure.subplots(1, 4, sharey=True)):
        axis.scatter(values[:, place], accuracy, c=values[:, 0], cmap="viridis", s=24)
        if place == 0:
            k1 = [one["settings"]["morel.preference"][0] for one in off]
            axis.plot(k1, 100 * verdicts(off, "pgd20").mean(1), "x--", color=RED, label="both terms off")
            axis.legend(fontsize=8)
            axis.set_ylabel("accuracy under PGD-20, %")
        axis.set_xlabel(FACTORS[place] + (", the colour of the dots" if place == 0 else ""))
        axis.grid(alpha=0.3)
    _save(figure, "screening")
