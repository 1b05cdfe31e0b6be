"""Training and judging of the networks; what is done is not done again."""
import csv
import time

import jax
import numpy as np

from benchmarks.study.design import ARCHITECTURE, HOLDOUT
from benchmarks.study.looks import look
from benchmarks.study.results import ROOT
from morel_jax import configuration, training
from morel_jax.data import embedded
from morel_jax.data.augment import to_float
from morel_jax.data.subset import stratified_order
from morel_jax.evaluation import evaluate
from morel_jax.evaluation.trained import as_logits_fn, load_variables


def group_config(workdir, group, epochs):
    """The config that all networks of a group share, for a training that ends after ``epochs``."""
    config = configuration.load_file(ROOT / "configs" / "small.py", f"{ARCHITECTURE},{group.method},paper")
    regime = group.regime
    train = embedded.load().train
    if regime.images + HOLDOUT < len(train.labels):
        config.data.name = f"npz:{_part(workdir, regime.images + HOLDOUT)}"
    config.epochs = epochs
    config.optimizer.drop_epochs = regime.drops
    config.validation.holdout = HOLDOUT
    config.validation.every = max(regime.stages[0] // 2, 1)
    for name, value in group.changes:
        section, _, field = name.rpartition(".")
        setattr(config[section] if section else config, field, value)
    return config


def _part(workdir, images):
    """The path of an archive of so many training images, the classes in proportion, and all test images."""
    path = workdir / f"first_{images}.npz"
    if not path.exists():
        dataset = embedded.load()
        rows = stratified_order(dataset.train.labels)[:images]
        workdir.mkdir(parents=True, exist_ok=True)
        np.savez(path, x_train=dataset.train.images[rows], y_train=dataset.train.labels[rows],
                 x_test=dataset.test.images, y_test=dataset.test.labels)
    return path


def run(workdir, group):
    """Trains a group's networks, looks at them at each stage, and judges the last.

    Returns:
        A list, for each network {"settings", "clean" and "robust": bool[n] of the test images, "history", "stages":
        {epochs: what :func:`~benchmarks.study.looks.look` returns}}, "seconds": of training}.
    """
    stages = group.regime.stages if group.stages else group.regime.stages[-1:]
    looks = [{} for _ in group.settings]
    for epochs in stages:
        outcomes = training.fit_population(group_config(workdir, group, epochs), list(group.settings),
                                           workdir / group.name, progress="epochs")
        folders = [workdir / group.name / outcome.member.name for outcome in outcomes]
        if group.stages:
            for seen, folder in zip(looks, folders, strict=True):
                seen[str(epochs)] = look(folder, epochs)
    found = []
    for outcome, folder, seen, settings in zip(outcomes, folders, looks, group.settings, strict=True):
        clean, robust = judge(folder, group.attacks)
        found.append({"settings": settings, "clean": clean, "robust": robust, "history": outcome.history,
                      "stages": seen, "seconds": sum(line["seconds"] for line in outcome.history) / len(outcomes)})
    return found


def judge(folder, attacks):
    """(clean, robust): of each test image whether the last network is right, and right under all attacks."""
    model, variables, config, dataset = load_variables(folder, "last")
    began, place = time.monotonic(), folder / f"judged-{attacks}"
    evaluate(as_logits_fn(model, variables), dataset.test.images, dataset.test.labels, [attacks], place,
             epsilon=config.attack.epsilon)
    print(f"{folder.parent.name}/{folder.name} judged in {time.monotonic() - began:.0f} s", flush=True)
    clean = predicted(model, variables, dataset.test.images) == dataset.test.labels
    with (place / "ledger.csv").open() as file:
        broken = {int(row["index"]) for row in csv.DictReader(file) if row["broken"] == "1"}
    robust = clean.copy()
    robust[list(broken)] = False
    return clean, robust


def predicted(model, variables, images):
    """Classes of uint8 images, as NumPy integers."""
    logits_fn = jax.jit(lambda x: model.apply(variables, x).logits.argmax(-1))
    return np.concatenate([np.asarray(logits_fn(to_float(part))) for part in np.split(images, 4)])
