"""Results of reproductions, made up."""
import json

import numpy as np

from morel_jax import manifest
from morel_jax.reproduction.grid import Grid, scale
from morel_jax.reproduction.paper import parse
from morel_jax.reproduction.trials import Reproduction

CELL = parse("1/cifar10/resnet18/white-box/trades/pgd20/best")


def whole(root):
    """All tables and figures at scale ``smoke``."""
    return Reproduction(Grid(scale("smoke")), root, range(1, 9), (2, 3, 4))


def write_last(trial, history, step):
    """The record of a trial's ``last``, as training leaves it; returns the checkpoint's folder."""
    folder = trial.folder / "checkpoints" / "last" / str(step + len(history))
    (folder / "record").mkdir(parents=True)
    (folder / "record" / "metadata").write_text(json.dumps({"history": history, "best": 0.5, "seconds": 0.0}))
    manifest.write(folder)
    return folder


def fill(reproduction, tables=True, seeds=(0, 1), families=None):
    """Results as a reproduction leaves them, made up: an accuracy depends on network, seed and attack."""
    for number, family in enumerate(reproduction.families):
        if families is not None and family not in families:
            continue
        for trial in reproduction.trials(family):
            if trial.seed not in seeds:
                continue
            epochs = trial.member.config.epochs
            line = {"representation_loss": 0.1 + 0.01 * number + 0.001 * trial.seed,
                    "classification_loss": 2 - 0.1 * number, "clean_accuracy": 0.7,
                    "robust_accuracy": 0.5 + 0.01 * trial.seed}
            write_last(trial, [line | {"epoch": epoch, "step": epoch} for epoch in range(1, epochs + 1)], epochs)
        for one in reproduction.evaluations(family) if tables else ():
            if one.trial.seed not in seeds:
                continue
            one.folder.mkdir(parents=True)
            if one.protocol == "heat_map":
                np.savez(one.folder / "heat_map.npz", similarity=np.eye(4, dtype=np.float32), labels=[0, 0, 1, 2])
                continue
            entry = {"accuracy": 0.4 + 0.01 * number + 0.02 * one.trial.seed}
            prefix = "transfer-" if one.protocol == "transfer" else ""
            attacks = {prefix + name: entry for name in ("fgsm", "pgd20", "pgd100", "cw", "autoattack", "square")}
            (one.folder / "summary.json").write_text(json.dumps(
                {"settings": {}, "clean": {"accuracy": 0.7}, "average": entry, "transfer_average": entry,
                 "attacks": attacks}))
