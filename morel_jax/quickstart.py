"""Trains a small network with MOREL and one without any defence, attacks both, and draws what happened.

Examples:
    morel quickstart
    morel quickstart --config.epochs=2 --workdir=runs/short
"""
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from morel_jax import command

_CONFIG = command.define_config("quickstart", "What MOREL's network is trained with; by default quickstart.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder for both runs and the figure.")
command.define_compilation_cache()

_SHOWN_CLASSES = 8


def _undefended(config: ConfigDict) -> ConfigDict:
    """The same run on clean images only: same network, epochs, batches and learning rates."""
    config = config.copy_and_resolve_references()
    config.method = "standard"
    config.batch_norm.statistics_from = ("natural",)
    return config


def _judge(workdirs: Mapping[str, Path],
           attack_of: Callable[[ConfigDict], Any]) -> Iterator[tuple[str, str, float, float]]:
    """Yields (name, which checkpoint, clean accuracy, robust accuracy) on all test images."""
    import jax

    from morel_jax.evaluation.trained import load_variables
    from morel_jax.training.validation import accuracies, compile_correct

    correct = None
    for name, workdir in workdirs.items():
        for which in ("best", "last"):
            model, variables, config, dataset = load_variables(workdir, which)
            correct = correct or compile_correct(model)  # The networks differ in their weights alone.
            found = accuracies(correct, variables, attack_of(config), dataset.test, jax.random.key(config.seed),
                               config.validation.batch_size)
            yield name, which, found["clean_accuracy"], found["robust_accuracy"]


def _draw(path: Path, workdirs: Mapping[str, Path], histories: Mapping[str, list[dict[str, Any]]],
          attack_of: Callable[[ConfigDict], Any]) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from morel_jax import builders
    from morel_jax.data.subset import stratified_rows
    from morel_jax.evaluation import figures, load

    networks = {name: load(workdir, "best") for name, workdir in workdirs.items()}
    _, config = next(iter(networks.values()))
    dataset = builders.dataset(config)
    attack = jax.jit(attack_of(config))
    answers = jax.jit(lambda logits_fn, images: jnp.argmax(logits_fn(images), -1))
    rows = stratified_rows(dataset.test.labels, min(200, len(dataset.test)))
    images, labels = np.asarray(dataset.test.images[rows], np.float32) / 255, dataset.test.labels[rows]
    # Images that every network knows unattacked: what changes is the attack's doing.
    known = np.all([answers(logits_fn, images) == labels for logits_fn, _ in networks.values()], axis=0)
    shown = [np.flatnonzero(known & (labels == label))[0] for label in np.unique(labels[known])[:_SHOWN_CLASSES]]
    images, labels = images[shown], labels[shown]
    attacked = {}
    for name, (logits_fn, _) in networks.items():
        x_adv = attack(logits_fn, jax.random.key(config.seed), images, labels)
        attacked[name] = np.asarray(x_adv), np.asarray(answers(logits_fn, x_adv))
    figure = figures.new_figure(9, 9.5)
    above, below = figure.subfigures(2, 1, height_ratios=(3, 1))
    above.suptitle(f"PGD-{config.validation.num_steps}, epsilon {config.validation.epsilon:g}", fontsize=10)
    figures.adversarial_examples(above, images, labels, attacked, config.validation.epsilon, dataset.class_names)
    figures.training_curves(below, histories)
    figures.save(figure, path)


def _main() -> None:
    began = time.monotonic()
    from morel_jax import builders
    from morel_jax.configuration import check
    from morel_jax.files import local_path, make_folder
    from morel_jax.training import fit

    root = local_path(_WORKDIR.value, "--workdir")
    config = _CONFIG.value
    runs = {"MOREL": config, "undefended": _undefended(config)}
    for run_config in runs.values():
        check(run_config)  # The second too, before the first trains.
    try:
        make_folder(root)  # Before anything is said of a training.
    except OSError as error:
        raise OSError(f"--workdir must be a folder that can be written; got {root}: {error.strerror}.") from error
    workdirs = {name: root / name.lower() for name in runs}
    histories = {}
    for name, run_config in runs.items():
        print(f"training: {name} ({run_config.method}, {run_config.model.name}, {run_config.epochs} epochs)",
              file=sys.stderr)
        _, histories[name] = fit(run_config, workdirs[name])

    def attack_of(config: ConfigDict) -> Any:
        return builders.pgd(config.validation)

    steps, epsilon = config.validation.num_steps, config.validation.epsilon
    print(f"\ntest accuracy, %            clean   PGD-{steps} at epsilon {epsilon:g}")
    for name, which, clean, robust in _judge(workdirs, attack_of):
        print(f"{name + ', ' + which:<24}{100 * clean:9.2f}{100 * robust:9.2f}")
    path = root / "quickstart.png"
    _draw(path, workdirs, histories, attack_of)
    print(f"\nfigure: {path}\ntime: {time.monotonic() - began:.0f} s")


def main(argv: list[str]) -> int:
    """Trains, judges, prints and draws. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    return command.exit_status(_main)


def run() -> None:
    """Entry point of the console script."""
    command.run(main)


if __name__ == "__main__":
    run()
