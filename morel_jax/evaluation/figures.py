"""Figures: adversarial examples beside their images, the course of a training, robustness by radius and step, and under
common corruptions."""
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator

from morel_jax.evaluation.distances import DistanceCurve
from morel_jax.evaluation.report_card import ReportCard
from morel_jax.files import write_atomically

_GOOD, _BAD = "#1a7f37", "#c0392b"


def _show(axis: Axes, image: Float[np.ndarray, "h w c"], title: str = "", good: bool | None = None) -> None:
    axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=8, pad=3, color="black" if good is None else _GOOD if good else _BAD)


def png(figure: Figure) -> bytes:
    """A figure as bytes, the same for the same figure: the name of the program that drew it is left out."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return content.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, all of it or nothing."""
    write_atomically(path, png(figure))


def adversarial_examples(figure: FigureBase, images: Float[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"],
                         attacked: Mapping[str, tuple[np.ndarray, np.ndarray]], epsilon: float,
                         class_names: Sequence[str]) -> None:
    """Draws, for each network, how an attack changes images and predictions.

    Args:
        figure: matplotlib figure or subfigure.
        images: in [0, 1].
        attacked: {network's name: (x_adv float[n, h, w, c], its predictions int[n], -1 where logits are not finite)}.
        epsilon: the attack's radius; a perturbation is drawn as 0.5 + perturbation / (2 epsilon).
        class_names: names by label.
    """
    axes = figure.subplots(1 + 2 * len(attacked), len(images), squeeze=False)
    for column, image in enumerate(images):
        _show(axes[0][column], image, class_names[labels[column]])
    axes[0][0].set_ylabel("image", fontsize=8)
    for place, (name, (x_adv, predictions)) in enumerate(attacked.items()):
        noise, seen = axes[1 + 2 * place], axes[2 + 2 * place]
        for column, (image, adversarial) in enumerate(zip(images, x_adv, strict=True)):
            _show(noise[column], np.clip(0.5 + (adversarial - image) / (2 * epsilon), 0, 1))
            says = class_names[predictions[column]] if predictions[column] >= 0 else "not finite"
            _show(seen[column], adversarial, says,
                  good=predictions[column] == labels[column])
        noise[0].set_ylabel(f"{name}:\nperturbation", fontsize=8)
        seen[0].set_ylabel(f"{name}\nsees, and says", fontsize=8)


def training_curves(figure: FigureBase, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draws loss and accuracies by epoch.

    Args:
        figure: matplotlib figure or subfigure.
        histories: {run's name: history as ``fit`` returns it}.
    """
    loss, clean, robust = figure.subplots(1, 3)
    for name, history in histories.items():
        judged = [line for line in history if "robust_accuracy" in line]
        loss.plot([line["epoch"] for line in history], [line["loss"] for line in history], "o-", ms=3, label=name)
        for axis, key in ((clean, "clean_accuracy"), (robust, "robust_accuracy")):
            axis.plot([line["epoch"] for line in judged], [100 * line[key] for line in judged], "o-", ms=3, label=name)
    for axis, title in ((loss, "training loss"), (clean, "clean accuracy, %"), (robust, "robust accuracy, %")):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    for axis in (clean, robust):
        axis.set_ylim(0, 100)
    loss.legend(fontsize=8)


def robustness_curves(figure: FigureBase, card: ReportCard) -> None:
    """Draws robust accuracy against the radius, and accuracy and margin along an attack.

    Args:
        figure: matplotlib figure or subfigure.
        card: :class:`~morel_jax.evaluation.report_card.ReportCard`.
    """
    by_radius, by_step, margin = figure.subplots(1, 3)
    by_radius.plot(card.epsilons, [100 * share for share in card.epsilon_accuracies], "o-", ms=3)
    by_radius.axvline(card.epsilon, color=_BAD, lw=1, ls="--", label=f"evaluated at {card.epsilon:.4g}")
    by_radius.set_xscale("symlog", linthresh=card.epsilon)
    by_radius.set_xlim(0, max(card.epsilons))
    by_radius.set_xlabel(f"epsilon, {card.norm}", fontsize=8)
    by_radius.set_title("robust accuracy, %, PGD-20", fontsize=9)
    by_radius.legend(fontsize=7)
    by_step.plot(card.iterations, [100 * share for share in card.iteration_accuracies])
    by_step.set_title("robust accuracy, %, PGD-100", fontsize=9)
    margin.plot(card.iterations, card.iteration_margins)
    margin.axhline(0, color="grey", lw=1)
    margin.set_title("mean margin of the best wrong class", fontsize=9)
    for axis in (by_step, margin):
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(0, max(card.iterations))
        axis.set_xlabel("steps", fontsize=8)
    for axis in (by_radius, by_step):
        axis.set_ylim(0, 100)
    for axis in (by_radius, by_step, margin):
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)


def corruption_heat_map(figure: FigureBase, result: Mapping[str, Any]) -> None:
    """Draws accuracy by corruption and severity.

    Args:
        figure: matplotlib figure or subfigure.
        result: what :func:`~morel_jax.evaluation.evaluate_corruptions` returned.
    """
    axis, names = figure.subplots(), list(result["corruptions"])
    percents = 100 * np.array([result["corruptions"][name]["accuracies"] for name in names])
    axis.imshow(percents, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for (row, column), percent in np.ndenumerate(percents):
        axis.text(column, row, f"{percent:.1f}", ha="center", va="center", fontsize=7,
                  color="black" if percent > 60 else "white")
    axis.set_xticks(range(percents.shape[1]), [str(column + 1) for column in range(percents.shape[1])], fontsize=8)
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    axis.set_xlabel("severity", fontsize=8)
    axis.set_title(f"accuracy, %; mean corruption error {100 * result['mce']:.2f} %", fontsize=9)


def distance_curves(figure: FigureBase, summary: Mapping[str, Any]) -> None:
    """Draws robust accuracy by radius as each minimum-norm attack gives it, and the other attacks at the radius.

    Args:
        figure: matplotlib figure or subfigure.
        summary: what :func:`~morel_jax.evaluation.evaluate` returned, of at least one minimum-norm attack.
    """
    axis, epsilon = figure.subplots(), summary["settings"]["epsilon"]
    curves = {name: DistanceCurve.from_dict(entry["curve"]) for name, entry in summary["attacks"].items()
              if "curve" in entry}
    if len(curves) > 1 and "curve" in summary:
        curves["nearest of all"] = DistanceCurve.from_dict(summary["curve"])
    farthest = max(2 * epsilon, *(curve.radii[-1] for curve in curves.values()))
    for name, curve in curves.items():
        axis.step([*curve.radii, farthest], 100 * np.append(curve.accuracies, curve.accuracies[-1]), where="post",
                  label=name, lw=1.2)
    for name, entry in summary["attacks"].items():
        if name not in curves:
            axis.plot([epsilon], [100 * entry["accuracy"]], "o", ms=4, label=name)
    axis.axvline(epsilon, color=_BAD, lw=1, ls="--", label=f"evaluated at {epsilon:.4g}")
    axis.set_xlim(0, farthest)
    axis.set_ylim(0, 100)
    axis.set_xlabel(f"epsilon, {summary['settings']['norm']}", fontsize=8)
    axis.set_title("robust accuracy, %", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure, in inches, laid out to fit its texts; not one of pyplot's, whose backend is the caller's."""
    return Figure(figsize=(width, height), layout="constrained")  # Any: its types know no array of subfigures.
