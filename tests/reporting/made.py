"""Folders of runs and evaluations, made up."""
import json

from morel_jax.training.workdir import open_workdir, write_metrics
from tests.small import small_config

BEST = 0.625


def line(epoch, **more):
    return {"epoch": epoch, "step": 6 * epoch, "learning_rate": 0.1 / epoch, "loss": 2.5 / epoch, "cosine_loss": 0.25,
            "natural_accuracy": 0.5, "clean_accuracy": 0.75, "robust_accuracy": BEST if epoch == 1 else 0.5,
            "gradient_conflict": -0.125, "seconds": 2.0, "images_per_second": 100.0} | more


def run(folder, epochs=2, **changes):
    """A run of two epochs of which so many are done."""
    open_workdir(small_config(**changes), folder)
    if epochs:
        write_metrics(folder, [line(epoch) for epoch in range(1, epochs + 1)])
    return folder


def share(accuracy):
    return {"accuracy": accuracy, "interval": [accuracy - 0.05, accuracy + 0.05]}


def summary(pgd=0.45, epsilon=0.1):
    return {"examples": 40, "settings": {"norm": "linf", "epsilon": epsilon}, "clean": share(0.8),
            "attacks": {"pgd20": share(pgd), "fmn": share(0.4) | {"curve": {}}}, "worst_case": share(0.375),
            "curve": {"median": 0.2, "radii": [0.0, 0.1, 0.3], "accuracies": [0.8, 0.5, 0.0]}}


CARD = {"norm": "linf", "epsilon": 0.1, "images": 40, "epsilons": [0.0, 0.1, 1.0],
        "epsilon_accuracies": [0.8, 0.5, 0.0], "lines": [
            {"name": "loss_rises", "verdict": "fail", "text": "it falls"},
            {"name": "deterministic", "verdict": "pass", "text": "it is"}]}


def evaluation(workdir, which="best", card=True, **options):
    folder = workdir / "evaluation" / which
    folder.mkdir(parents=True)
    (folder / "ledger.csv").write_text("header\n")
    (folder / "summary.json").write_text(json.dumps(summary(**options)))
    if card:
        (folder / "report_card.json").write_text(json.dumps(CARD))
    return folder
