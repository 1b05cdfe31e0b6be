"""Training and judging of the networks; what is done is not done again."""
import csv
import json
import time

import jax
import numpy as np

from benchmarks.study.design import ARCHITECTURE, HOLDOUT
from benchmarks.study.looks import accuracy_on_own, look
from benchmarks.study.results import ROOT
from morel_jax import configuration, training
from morel_jax.data import embedded
from morel_jax.data.augment import to_float
from morel_jax.data.subset import stratified_order
from morel_jax.evaluation import evaluate
from morel_jax.evaluation.trained import as_logits_fn, load_variables
from morel_jax.files import write_atomically

# Of an epoch that was validated.
KEPT = ("epoch", "loss", "adversarial_accuracy", "clean_accuracy", "robust_accuracy")


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
        A list, for each network {"settings"; "right": {"clean", "pgd20" and, on demand, "fast": bool[n] of the test
        images, right under this attack}; "own_images": accuracy under PGD-20 on images that it was trained on, %;
        "validated": [{"epoch" and what of it is KEPT}]; "stages": {epochs: what
        :func:`~benchmarks.study.looks.look` returns}; "seconds": of training, shared by the group}.
    """
    seen = {}
    for epochs in group.regime.stages if group.stages else group.regime.stages[-1:]:
        path = workdir / f"{group.name}-{epochs}.json"
        # A run that has gone on does not go back.
        if not path.exists() or epochs == group.regime.stages[-1]:
            outcomes = training.fit_population(group_config(workdir, group, epochs), list(group.settings),
                                               workdir / group.name, progress="epochs")
            folders = [workdir / group.name / outcome.member.name for outcome in outcomes]
            write_atomically(path, json.dumps([look(folder) for folder in folders] if group.stages else []))
        for place, found in enumerate(json.loads(path.read_text())):
            seen.setdefault(place, {})[str(epochs)] = found
    attacks = ["pgd20", "fast"] if group.is_judged_by_fast else ["pgd20"]
    return [{"settings": settings, "right": judge(folder, attacks), "stages": seen.get(place, {}),
             "own_images": accuracy_on_own(folder),
             "validated": [{name: round(line[name], 5) for name in KEPT}
                           for line in outcome.history if KEPT[-1] in line],
             "seconds": round(sum(line["seconds"] for line in outcome.history) / len(outcomes), 2)}
            for place, (settings, outcome, folder) in enumerate(zip(group.settings, outcomes, folders, strict=True))]


def judge(folder, attacks):
    """{"clean" or an attack: bool[n], of each test image whether the last network is right under it}."""
    model, variables, config, dataset = load_variables(folder, "last")
    clean = predicted(model, variables, dataset.test.images) == dataset.test.labels
    right, began = {"clean": clean}, time.monotonic()
    for attack in attacks:
        place = folder / f"judged-{attack}"
        evaluate(as_logits_fn(model, variables), dataset.test.images, dataset.test.labels, [attack], place,
                 epsilon=config.attack.epsilon)
        with (place / "ledger.csv").open() as file:
            broken = [int(row["index"]) for row in csv.DictReader(file) if row["broken"] == "1"]
        right[attack] = clean.copy()
        right[attack][broken] = False
    print(f"{folder.parent.name}/{folder.name} judged in {time.monotonic() - began:.0f} s", flush=True)
    return right


def predicted(model, variables, images):
    """Classes of uint8 images, as NumPy integers."""
    logits_fn = jax.jit(lambda x: model.apply(variables, x).logits.argmax(-1))
    return np.concatenate([np.asarray(logits_fn(to_float(part))) for part in np.split(images, 4)])
