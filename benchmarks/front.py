"""The front of one conditioned network against that of nine networks, at equal compute.

``python -m benchmarks.front --workdir=runs/front``: on the embedded images, three seeds, the quickstart's network and
settings. Nine networks of five epochs with k1 from 0.1 to 0.9, one conditioned network of 45 epochs, which costs as
much, and one of five. All test images, under PGD-20. A killed one is resumed. Figures go to
``benchmarks/results/front_cpu.json``, the picture to ``docs/images/front.png``.
"""
import argparse
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import environment
from morel_jax import configuration, training
from morel_jax.attacks import PGD
from morel_jax.evaluation.figures import new_figure
from morel_jax.evaluation.trained import load_variables
from morel_jax.losses import cosine_alignment, mart
from morel_jax.reproduction.report import hypervolume

PREFERENCES = [round(0.1 * i, 1) for i in range(1, 10)]
SEEDS = (0, 1, 2)
ROOT = Path(__file__).parents[1]
# Of both, smaller is better; the axes of a front.
FRONTS = {"errors": ("clean error, %", "error under PGD-20, %"), "losses": ("1 - cosine of features", "MART's loss")}


@functools.partial(jax.jit, static_argnames="model")
def judge(model, variables, x, y, epsilon, beta):
    """The four measurements of :data:`FRONTS`, means over n images."""
    def outputs(images):
        return model.apply(variables, images)

    attack = PGD(epsilon, epsilon / 10, num_steps=20)
    x_adv = attack(lambda images: outputs(images).logits, jax.random.key(0), x, y)
    natural, adversarial = outputs(x), outputs(x_adv)
    right = [100 * (one.logits.argmax(-1) != y).mean() for one in (natural, adversarial)]
    return jnp.stack([*right, cosine_alignment(natural.features, adversarial.features).mean(),
                      mart(natural.logits, adversarial.logits, y, beta).mean()])


def judged(workdir, preference=None):
    """:func:`judge` of a run's last network on all test images, in four parts."""
    model, variables, config, dataset = load_variables(workdir, "last", preference=preference)
    parts = zip(np.split(np.float32(dataset.test.images) / 255, 4), np.split(dataset.test.labels, 4), strict=True)
    values = [judge(model, variables, x, y, config.attack.epsilon, config.loss.beta) for x, y in parts]
    return np.mean(values, axis=0).tolist()


def trained(workdir, epochs, settings, **morel):
    """[folder of each member's run]."""
    config = configuration.load_file(ROOT / "configs" / "quickstart.py")
    config.epochs, config.optimizer.drop_epochs = epochs, (1 + 3 * epochs // 5,)  # As the quickstart's 4 of 5.
    config.morel.update(morel)
    outcomes = training.fit_population(config, settings, workdir, progress="epochs")
    return [workdir / outcome.member.name for outcome in outcomes]


def main():
    """Trains, measures, writes and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    options = parser.parse_args()
    seeds = [{"seed": seed} for seed in SEEDS]
    grid = [{"seed": seed, "morel.preference": (k, round(1 - k, 1))} for seed in SEEDS for k in PREFERENCES]
    runs = {"nine networks": trained(options.workdir / "nine", 5, grid),
            "one conditioned network, 45 epochs": trained(options.workdir / "long", 45, seeds, conditioned=True),
            "one conditioned network, 5 epochs": trained(options.workdir / "short", 5, seeds, conditioned=True)}
    found = {}
    for name, folders in runs.items():
        began = time.monotonic()
        if len(folders) == len(grid):
            points = [judged(folder) for folder in folders]
        else:
            points = [judged(folder, k) for folder in folders for k in PREFERENCES]
        points = np.reshape(points, (len(SEEDS), len(PREFERENCES), 4)).tolist()
        found[name] = {"points": points}
        print(f"{name}: judged in {time.monotonic() - began:.0f} s", flush=True)
    for axes, columns in zip(FRONTS, (slice(0, 2), slice(2, 4)), strict=True):
        every = np.concatenate([np.reshape(one["points"], (-1, 4)) for one in found.values()])
        worst = every[:, columns].max(axis=0).tolist()
        for name, one in found.items():
            areas = [hypervolume([tuple(point[columns]) for point in points], worst) for points in one["points"]]
            one.setdefault("hypervolume", {})[axes] = areas
            print(f"{axes}: {name}: hypervolume {statistics.mean(areas):.4g} ({', '.join(f'{a:.4g}' for a in areas)})")
    record = {"environment": environment("python -m benchmarks.front --workdir=DIR"), "preferences": PREFERENCES,
              "seeds": SEEDS, "axes": FRONTS, "found": found}
    (ROOT / "benchmarks" / "results" / "front_cpu.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(found)


def draw(found):
    """``docs/images/front.png``: for each pair of axes, the points of every seed and the mean over seeds."""
    figure = new_figure(9, 4)
    for place, (labels, first) in enumerate(zip(FRONTS.values(), (0, 2), strict=True)):
        axes = figure.add_subplot(1, 2, place + 1)
        for number, (name, one) in enumerate(found.items()):
            points, color = np.array(one["points"]), f"C{number}"
            for own in points:
                axes.plot(own[:, first], own[:, first + 1], ".", color=color, alpha=0.35, markersize=5)
            mean = points.mean(axis=0)
            axes.plot(mean[:, first], mean[:, first + 1], "o-", color=color, markersize=4, label=name)
        axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend(fontsize=8)
    figure.savefig(ROOT / "docs" / "images" / "front.png", dpi=110)


if __name__ == "__main__":
    main()
