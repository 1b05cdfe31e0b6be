"""Attacks a trained run, checks what the attacks return, and writes a table, a ledger, a report card and figures.

Examples:
    morel evaluate --workdir=runs/cifar10
    morel evaluate --workdir=runs/cifar10 --which=best --attacks=autoattack --examples=1000
    morel evaluate --workdir=runs/cifar10 --norm=linf,l2 --epsilon=0.031,0.5 --attacks=pgd20,autoattack
    morel evaluate --workdir=runs/cifar10 --noise=0.1 --attacks=autoattack-rand,pgd20-eot20
"""
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from morel_jax import attack_names, checks, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Float32, Int32

    from morel_jax.attacks.types import LogitsFn
    from morel_jax.data import Dataset, Split
    from morel_jax.evaluation.dry_run import EvaluationDryRun
    from morel_jax.evaluation.report_card import ReportCard


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
_CHECKPOINTS = ["best", "last"]
_WHICH = flags.DEFINE_list("which", _CHECKPOINTS, "Checkpoints to evaluate: best, last.")
flags.register_validator("which", lambda names: names and set(names) <= set(_CHECKPOINTS),
                         f"must be {', '.join(_CHECKPOINTS)} or both")
# What is no attack, and is asked for beside them.
_CORRUPTIONS = "corruptions"
_NAMES = attack_names.known() | {_CORRUPTIONS: "no attack: accuracy on the common corruptions in --corruptions_dir"}
_ATTACKS = flags.DEFINE_list("attacks", ["paper"], "Any of:\n" + "\n".join(
    f"- {name}: {text}" for name, text in _NAMES.items()) + "\n")
flags.register_validator("attacks", bool, "must name at least one attack")
_CORRUPTIONS_DIR = flags.DEFINE_string(
    "corruptions_dir", None, "Folder of corrupted test images in the layout of CIFAR-10-C: <corruption>.npy and "
    "labels.npy.")
_MAKE_CORRUPTIONS = flags.DEFINE_bool(
    "make_corruptions", False, "First write there, from the run's test images, the corruptions that it does not hold; "
    "needs the extra 'corruptions'.")
_CORRUPTIONS_BASELINE = flags.DEFINE_string(
    "corruptions_baseline", None, "The corruptions.json of a network whose errors those of this one are divided by.")
_EXAMPLES = flags.DEFINE_integer("examples", 0, "How many test images, the classes in proportion; 0: all.",
                                lower_bound=0)
_EPSILON = flags.DEFINE_list(
    "epsilon", None, "Radius, one for each norm; by default the config's validation.epsilon for its validation.norm. "
    "PGD's step is scaled with it.")
flags.register_validator("epsilon", lambda texts: texts is None or all(map(_is_number, texts)), "must be numbers")
_NORM = flags.DEFINE_list("norm", None, "Norm of the radius, linf or l2; by default the config's validation.norm. Of "
                          "several, such as --norm=linf,l2 --epsilon=0.031,0.5, the worst case per image is counted, "
                          "too.")
flags.register_validator("norm", lambda names: names is None or (names and set(names) <= {"linf", "l2"}
                                                                 and len(set(names)) == len(names)),
                         "must be linf, l2 or both")
_SEED = flags.DEFINE_integer("seed", 0, "Of the random draws of attacks and of --make_corruptions.", lower_bound=0,
                            upper_bound=checks.LARGEST_SEED)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images under way at a time; changes no result.", lower_bound=1)
_SURROGATE = flags.DEFINE_list("surrogate", None, "Workdir of the network that transfer attacks are crafted on; of "
                               "several, A,B,C, they are crafted on the mean of the logits.")
flags.register_validator("surrogate", lambda workdirs: workdirs is None or workdirs, "must name a workdir")
_SURROGATE_WHICH = flags.DEFINE_enum("surrogate_which", "last", _CHECKPOINTS, "Its checkpoint.")
_LOSS = command.define_function("loss", "Your own loss, which attacks of a name with -loss climb: a function (logits, "
                                "labels) that returns one value per example.")
_NOISE = flags.DEFINE_float("noise", None, "Judge the network with Gaussian noise of this standard deviation on its "
                            "images, drawn anew at each answer.", lower_bound=0)
flags.register_validator("noise", lambda sigma: sigma is None or sigma > 0, "must be above 0")
_DEFENCE = command.define_function("defence", "Judge the network behind your own defence that answers at random: a "
                                   "function (logits_fn, images, keys) that returns logits, with a key per image.")
_DRAWS = flags.DEFINE_integer("draws", 100, "With --noise or --defence: the answers that vote on each verdict.",
                              lower_bound=1)
_PREFERENCE = command.PreferenceFlag()
_SAVE_IMAGES = flags.DEFINE_bool("save_images", False, "Keep adversarial images, float32 and uint8.")
_REPORT_CARD = flags.DEFINE_integer(
    "report_card", 200, "Images for the report card and its curves (gradient masking, weak evaluation); 0: none.",
    lower_bound=0)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results; by default evaluation/ in the workdir.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show a progress bar.")
_CONFIG = command.define_config(help_text="With --dry_run and without --workdir: a config whose network to take.")
_DRY_RUN = command.DryRunFlags("the attacks")
command.define_compilation_cache()

_SHOWN_CLASSES, _DRAWN_FROM = 8, 200


def _sample(split: "Split", count: int) -> "tuple[Float32[np.ndarray, 'n h w c'], Int32[np.ndarray, ' n']]":
    """At most ``count`` images of a split, float32 in [0, 1], and their labels; the classes in proportion."""
    import numpy as np

    from morel_jax.data.augment import to_float
    from morel_jax.data.subset import stratified_rows
    rows = stratified_rows(split.labels, min(count, len(split)))
    return np.asarray(to_float(split.images[rows])), split.labels[rows]


def _draw(folder: Path, logits_fn: "LogitsFn", dataset: "Dataset", card: "ReportCard", step: int) -> None:
    """The figures: curves of the report card, and images that an attack breaks; these for TensorBoard too."""
    import jax
    import numpy as np

    from morel_jax.attacks import APGD
    from morel_jax.evaluation import figures
    from morel_jax.training.tensorboard import write_pictures
    from morel_jax.training.validation import predicted

    if card.epsilons:  # Empty if not even PGD could be run.
        figure = figures.new_figure(9, 3.2)
        figures.robustness_curves(figure, card)
        figures.save(figure, folder / "curves.png")

    images, labels = _sample(dataset.test, _DRAWN_FROM)
    attack = APGD(card.epsilon, num_steps=20, norm=card.norm)
    x_adv = np.asarray(jax.jit(attack)(logits_fn, jax.random.key(_SEED.value), images, labels))
    before, after = (np.asarray(predicted(logits_fn(x))) for x in (images, x_adv))
    # One image per class: one that the attack breaks if there is one.
    order = np.argsort(~((before == labels) & (after != labels)), kind="stable")
    shown = [order[labels[order] == label][0] for label in np.unique(labels)[:_SHOWN_CLASSES]]
    figure = figures.new_figure(9, 3.9)
    figure.suptitle(f"APGD, 20 steps, {card.norm}, epsilon {card.epsilon:.4g}", fontsize=10)
    figures.adversarial_examples(figure, images[shown], labels[shown], {"network": (x_adv[shown], after[shown])},
                                 card.epsilon if card.norm == "linf" else np.abs(x_adv - images).max(),
                                 dataset.class_names)
    figures.save(figure, folder / "adversarial.png")
    write_pictures(folder, step, {"adversarial": figures.png(figure)})


def _threats(config: Any) -> dict[str, float]:
    """{norm: radius} as flags and config say.

    Raises:
        ValueError: a norm has no radius.
    """
    section = config.validation
    norms = _NORM.value or [section.norm]
    epsilons = [float(text) for text in _EPSILON.value or ()]
    if not epsilons and norms == [section.norm]:
        epsilons = [section.epsilon]
    if len(epsilons) != len(norms):
        raise ValueError(f"--epsilon must give a radius for each norm ({', '.join(norms)}); got "
                         f"{', '.join(_EPSILON.value or ['none'])}. The config has {section.epsilon:.5g} in "
                         f"{section.norm}.")
    return dict(zip(norms, epsilons, strict=True))


def _randomisation() -> list[str]:
    """What makes the network answer at random, as flag and value; also the name of a folder."""
    return ([f"noise={_NOISE.value:g}"] if _NOISE.value else []) + (
        [f"defence={getattr(_DEFENCE.value, '__name__', 'own')}"] if _DEFENCE.value else [])


def _randomised(logits_fn: "LogitsFn") -> "LogitsFn":
    """The network as it is judged."""
    from jax.tree_util import Partial

    from morel_jax.evaluation import with_noise
    if _NOISE.value:
        return with_noise(logits_fn, _NOISE.value)
    return Partial(_DEFENCE.value, logits_fn) if _DEFENCE.value else logits_fn


def _evaluate_corruptions(which: str, network: tuple[Any, ...], folder: Path, images: Path) -> None:
    """Evaluates one checkpoint on the corrupted ``images``; arguments as for :func:`_evaluate_attacks`."""
    from morel_jax.evaluation import corruptions, figures
    from morel_jax.evaluation.trained import as_logits_fn
    from morel_jax.files import write_atomically
    from morel_jax.progress import AttackProgress

    model, variables, _, dataset = network
    result = corruptions.evaluate_corruptions(
        as_logits_fn(model, variables), images, folder, examples=_EXAMPLES.value,
        baseline=_CORRUPTIONS_BASELINE.value, image_shape=dataset.image_shape, progress=AttackProgress(_PROGRESS.value))
    text = corruptions.to_markdown(result, f"{_WORKDIR.value}, {which}")
    print("\n" + text)
    write_atomically(folder / "corruptions.md", text)
    figure = figures.new_figure(5, 0.8 + 0.27 * len(result["corruptions"]))
    figures.corruption_heat_map(figure, result)
    figures.save(figure, folder / "corruptions.png")
    print(f"results: {folder}")


def _evaluate_attacks(which: str, network: tuple[Any, ...], names: list[str], folder: Path,
                      surrogate: "Sequence[LogitsFn] | None", step: int) -> None:
    """Attacks one checkpoint, ``network`` as load_variables returns it, with the attacks ``names``, into ``folder``.

    ``step``: the checkpoint's.
    """
    from morel_jax.evaluation import evaluate, evaluate_union
    from morel_jax.evaluation.summary import read_summary
    from morel_jax.evaluation.trained import as_logits_fn
    from morel_jax.evaluation.union import union_to_markdown
    from morel_jax.files import write_atomically
    from morel_jax.progress import AttackProgress

    model, variables, config, dataset = network
    logits_fn, test, section = _randomised(as_logits_fn(model, variables)), dataset.test, config.validation
    threats = _threats(config)
    # The config's step, for a radius of its own length.
    step_sizes = {norm: section.step_size * epsilon / section.epsilon for norm, epsilon in threats.items()}
    options: dict[str, Any] = dict(
        variant=config.variant, seed=_SEED.value, examples=_EXAMPLES.value, surrogate=surrogate,
        batch_size=_BATCH_SIZE.value, save_images=_SAVE_IMAGES.value, progress=AttackProgress(_PROGRESS.value),
        draws=_DRAWS.value if _randomisation() else 0, loss=_LOSS.value)
    title = ", ".join([f"{_WORKDIR.value}", which, *_randomisation()])
    if len(threats) == 1:
        ((norm, epsilon),) = threats.items()
        summary = evaluate(logits_fn, test.images, test.labels, names, folder, epsilon=epsilon,
                           step_size=step_sizes[norm], norm=norm, **options)
        _report(title, summary, folder, logits_fn, dataset, step)
        return
    union = evaluate_union(logits_fn, test.images, test.labels, names, folder, epsilons=threats,
                           step_sizes=step_sizes, **options)
    for norm in threats:
        _report(f"{title}, {norm}", read_summary(folder / norm / "summary.json"), folder / norm, logits_fn, dataset,
                step)
    text = union_to_markdown(union, f"{title}, union")
    print("\n" + text)
    write_atomically(folder / "union.md", text)


def _report(title: str, summary: dict[str, Any], folder: Path, logits_fn: "LogitsFn", dataset: "Dataset",
            step: int) -> None:
    """The table, report card and figures of one evaluation, printed and in ``folder``; ``step``: the checkpoint's."""
    import jax

    from morel_jax.evaluation import figures, report_card
    from morel_jax.evaluation.summary import to_markdown
    from morel_jax.files import write_atomically

    text = to_markdown(summary, title)
    print("\n" + text)
    if any("curve" in entry for entry in summary["attacks"].values()):
        figure = figures.new_figure(5, 3.5)
        figures.distance_curves(figure, summary)
        figures.save(figure, folder / "distances.png")
    if _REPORT_CARD.value and not _randomisation():  # Its checks take an answer for a function of the image.
        x, y = _sample(dataset.test, _REPORT_CARD.value)
        settings = summary["settings"]
        card = report_card(logits_fn, jax.random.key(_SEED.value), x, y, settings["epsilon"], norm=settings["norm"])
        write_atomically(folder / "report_card.json", json.dumps(card.to_dict(), indent=1))
        print(card.to_markdown())
        text += "\n" + card.to_markdown()
        _draw(folder, logits_fn, dataset, card, step)
    write_atomically(folder / "summary.md", text)
    print(f"results: {folder}")


def _dry_run(target: str | None) -> "EvaluationDryRun":
    from morel_jax.evaluation.dry_run import dry_run_evaluation
    from morel_jax.training.workdir import load_config, load_content

    if (_WORKDIR.value is None) == (_CONFIG.value is None):
        raise ValueError("--dry_run must be given either --workdir or --config.")
    if _CORRUPTIONS in _ATTACKS.value:
        raise ValueError("--dry_run must be given attacks alone; corruptions are images that are classified once.")
    config, data = _CONFIG.value, None
    if _WORKDIR.value is not None:
        config, data = load_config(_WORKDIR.value), load_content(_WORKDIR.value).get("data")
    threats = _threats(config)
    if len(threats) > 1:
        raise ValueError(f"--dry_run must be given one norm; got {', '.join(threats)}.")
    ((norm, epsilon),) = threats.items()
    return dry_run_evaluation(config, _ATTACKS.value, data, epsilon=epsilon, norm=norm, target=target,
                              loss=_LOSS.value)


def _main() -> None:
    if _NOISE.value and _DEFENCE.value:
        raise ValueError("--noise and --defence must not be given together; a defence can add the noise itself.")
    if _randomisation() and (_CORRUPTIONS in _ATTACKS.value or flags.FLAGS.dry_run):
        raise ValueError("--noise and --defence must come with attacks alone, without corruptions or --dry_run.")
    if _DRY_RUN.run(_dry_run):
        return
    if _CONFIG.value is not None:
        raise ValueError("--config must come with --dry_run; a run has its own.")
    from morel_jax.evaluation.trained import load, load_variables  # Here: --help and a wrong flag answer at once.
    from morel_jax.files import local_path
    from morel_jax.training.saved import load_record

    attacks = [name for name in _ATTACKS.value if name != _CORRUPTIONS]
    if (_CORRUPTIONS in _ATTACKS.value) != (_CORRUPTIONS_DIR.value is not None):
        raise ValueError("--corruptions_dir must come with --attacks=corruptions, and it with the folder; see "
                         "--make_corruptions.")
    if _CORRUPTIONS_DIR.value is None and (_MAKE_CORRUPTIONS.value or _CORRUPTIONS_BASELINE.value is not None):
        raise ValueError("--make_corruptions and --corruptions_baseline must come with --attacks=corruptions.")
    workdir = local_path(_WORKDIR.value, "workdir")
    output = workdir / "evaluation" if _OUTPUT.value is None else local_path(_OUTPUT.value, "output")
    corrupted = None if _CORRUPTIONS_DIR.value is None else local_path(_CORRUPTIONS_DIR.value, "corruptions_dir")
    surrogate = None
    if _SURROGATE.value is not None:
        surrogate = [load(local_path(workdir, "surrogate"), _SURROGATE_WHICH.value)[0] for workdir in _SURROGATE.value]
    # All are loaded before the first is evaluated, which may take hours.
    networks = {which: load_variables(workdir, which, preference=_PREFERENCE.value) for which in _WHICH.value}
    if any(dataset is None for *_, dataset in networks.values()):
        raise ValueError(f"{workdir} was trained on its caller's own data set; evaluate it with "
                         "morel_jax.evaluation.evaluate, which takes images.")
    if corrupted is not None and _MAKE_CORRUPTIONS.value:
        from morel_jax.data import write_corruptions
        test = next(iter(networks.values()))[-1].test
        write_corruptions(test.images, test.labels, corrupted, seed=_SEED.value,
                          on_written=lambda path: print(f"corrupted images: {path}"))
    for which, network in networks.items():
        folder = _PREFERENCE.folder(output / which).joinpath(*_randomisation())
        if corrupted is not None:
            _evaluate_corruptions(which, network, folder, corrupted)
        if attacks:
            _evaluate_attacks(which, network, attacks, folder, surrogate, load_record(workdir, which)["step"])


def main(argv: list[str]) -> int:
    """Evaluates each checkpoint. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    return command.exit_status(_main)


def run() -> None:
    """Entry point of the console script."""
    _DRY_RUN.register()
    command.run(main)


if __name__ == "__main__":
    run()
