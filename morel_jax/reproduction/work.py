"""The remaining work of a reproduction: training its families, evaluating their trials, and an estimate of the cost."""
import dataclasses
import io
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

from morel_jax import builders, evaluation, training
from morel_jax.attacks.keys import fold_in_each
from morel_jax.data.augment import to_float
from morel_jax.evaluation.similarity import feature_similarity
from morel_jax.evaluation.trained import as_logits_fn, load_variables
from morel_jax.files import make_folder, write_atomically
from morel_jax.progress import AttackProgress
from morel_jax.reproduction.grid import PROTOCOLS, Family
from morel_jax.reproduction.trials import HEAT_MAP, SURROGATE_CHECKPOINT, Evaluation, Reproduction, Trial
from morel_jax.targets.flops import count_flops
from morel_jax.training.placement import Sharded, build_layout
from morel_jax.training.setup import INITIAL, STEP, Setup, setup
from morel_jax.training.step import train_step

# The images of Figure 3 are drawn with this seed.
_HEAT_MAP_SEED = 0
# Forward passes per image of each protocol; a pass with gradient counts as three. Only images that withstand the
# iterative attacks take all of their steps; their fraction is a guess.
_GRADIENT, _WITHSTAND = 3, 0.5
_PASSES = {
    "paper": _GRADIENT * (1 + 20 + 100 + 10),
    "transfer": _GRADIENT * (1 + 20 + 100 + 10),
    # APGD-CE, APGD-T and FAB-T with 9 targets, Square.
    "autoattack": _WITHSTAND * (_GRADIENT * (100 + 900 + 900) + 900 + 5000),
}
_MEASURED_STEPS = 3


def carry_out(reproduction: Reproduction, families: Iterable[Family], progress: bool = True) -> list[Evaluation]:
    """Trains and evaluates what ``families`` lack, in order; returns the evaluations that wait for another shard.

    Raises:
        DamagedFileError, FileNotFoundError, ValueError: see ``Reproduction.check_trained``; and what
            :func:`~morel_jax.training.fit` and :func:`~morel_jax.evaluation.evaluate` raise.
    """
    waiting = []
    for family in families:
        trials = reproduction.trials(family)
        trained = all(trial.is_trained() for trial in trials)
        if trained:
            reproduction.check_trained(family)
            if all(one.is_done() for one in reproduction.evaluations(family)):
                continue
        print(f"{family.name}: {len(trials)} runs", file=sys.stderr, flush=True)
        if not trained:
            _train(reproduction, family, trials, progress or "epochs")
        for one in reproduction.evaluations(family):
            if one.protocol == "transfer" and not reproduction.surrogate_of(one.trial.network).is_trained():
                waiting.append(one)
            elif not one.is_done():
                _evaluate(reproduction, one, progress)
    return waiting


def _train(reproduction: Reproduction, family: Family, trials: Sequence[Trial], progress: bool | str) -> None:
    if len(trials) == 1:
        training.fit(trials[0].member.config, trials[0].folder, progress)
    else:
        training.fit_population(reproduction.grid.base(family), [trial.member.changes for trial in trials],
                                reproduction.folder / family.name, progress)


def _evaluate(reproduction: Reproduction, wanted: Evaluation, progress: bool) -> None:
    trial, scale = wanted.trial, reproduction.grid.scale
    if wanted.protocol == HEAT_MAP:
        write_heat_map(wanted, scale.heat_map_images)
        return
    surrogate = None
    if wanted.protocol == "transfer":
        surrogate = evaluation.load(reproduction.surrogate_of(trial.network).folder, SURROGATE_CHECKPOINT)[0]
    logits_fn, config = evaluation.load(trial.folder, wanted.checkpoint)
    test, section = builders.dataset(config).test, config.validation
    evaluation.evaluate(
        logits_fn, test.images, test.labels, PROTOCOLS[wanted.protocol], wanted.folder,
        epsilon=section.epsilon, step_size=section.step_size, variant=config.variant, surrogate=surrogate,
        examples=scale.examples[wanted.protocol], progress=AttackProgress(progress))


def write_heat_map(wanted: Evaluation, count: int) -> None:
    """Writes cosine similarities between features of ``count`` attacked and natural images into ``heat_map.npz``.

    ``similarity`` is float32[count, count], one row per attacked image and one column per natural one, both ordered by
    class; ``labels`` is int32[count]. The images are drawn at random; the attack is that of ``config.validation``.
    """
    model, variables, config, dataset = load_variables(wanted.trial.folder, wanted.checkpoint)
    logits_fn, test = as_logits_fn(model, variables), dataset.test
    index = np.random.default_rng(_HEAT_MAP_SEED).choice(len(test.labels), count, replace=False)
    index = index[np.lexsort((index, test.labels[index]))]
    x, labels = to_float(test.images[index]), test.labels[index]
    keys = fold_in_each(jax.random.key(config.seed), index)
    x_adv = builders.pgd(config.validation)(logits_fn, keys, x, labels)
    content = io.BytesIO()
    np.savez(content, similarity=feature_similarity(model, variables, x, x_adv), labels=labels)
    make_folder(wanted.folder)
    write_atomically(wanted.path, content.getvalue())


@dataclasses.dataclass(frozen=True)
class Remaining:
    """The remaining work of a family.

    Attributes:
        family: its name.
        trials: number of trials that are not fully trained.
        steps: their remaining steps, in all.
        train_flops, evaluate_flops: FLOPs of those steps, and of the missing evaluations.
    """
    family: str
    trials: int
    steps: int
    train_flops: float
    evaluate_flops: float


def remaining(reproduction: Reproduction, family: Family) -> Remaining:
    """The remaining work of a family; nothing is compiled or measured."""
    config = reproduction.grid.base(family)
    blank = setup(config, blank=True)
    untrained = [trial for trial in reproduction.trials(family) if not trial.is_trained()]
    steps = sum((config.epochs - len(trial.history())) * blank.steps_per_epoch for trial in untrained)
    image = jax.ShapeDtypeStruct((1, *blank.image_shape), jnp.float32)
    variables = jax.eval_shape(blank.parts.model.init, jax.random.key(0), image)
    forward = count_flops(blank.parts.model.apply, variables, image)
    passes = 0.0
    for one in reproduction.evaluations(family):
        if not one.is_done() and one.protocol in PROTOCOLS:
            images = reproduction.grid.scale.examples[one.protocol] or len(builders.blank_dataset(config).test.labels)
            passes += images * _PASSES[one.protocol]
    return Remaining(family.name, len(untrained), steps, _step_flops(blank) * steps, forward * passes)


def _step_flops(blank: Setup) -> float:
    return count_flops(partial(train_step, parts=blank.parts), *blank.step_arguments)


def measure_flops_per_second(config: ConfigDict) -> float:
    """The speed of a config's compiled steps; needs the data set's shape, not its content."""
    blank, placement = setup(config, blank=True), Sharded(build_layout(config))
    (state,) = placement.new_states(blank, [config.seed], INITIAL)
    totals, key = placement.totals([blank.no_totals()]), placement.keys([config.seed], STEP)
    few = dataclasses.replace(blank.train, images=np.ascontiguousarray(blank.train.images[:config.batch_size]),
                              labels=np.ascontiguousarray(blank.train.labels[:config.batch_size]))
    order = np.tile(np.arange(config.batch_size, dtype=np.int32), (1 + _MEASURED_STEPS, 1))
    piece, *_ = next(iter(placement.feed(few, config.data.placement).pieces(order, 0)))
    (train, _), hparams = placement.compile(blank.parts), blank.hparams(config, epoch=1)

    def run(state: Any, totals: Any, first: int, last: int) -> Any:
        return train(state, totals, hparams, piece, key, np.int32(first), np.int32(last))

    state, totals = jax.block_until_ready(run(state, totals, 0, 1))
    began = time.monotonic()
    jax.block_until_ready(run(state, totals, 1, 1 + _MEASURED_STEPS))
    return _step_flops(blank) * _MEASURED_STEPS / (time.monotonic() - began)


def describe_cost(reproduction: Reproduction, families: Iterable[Family]) -> str:
    """A table of the FLOPs and hours of the remaining work; the step of each architecture is measured once."""
    rows, speeds, total = [], {}, 0.0
    for family in families:
        left = remaining(reproduction, family)
        flops = left.train_flops + left.evaluate_flops
        if not flops:
            continue
        architecture = family.networks[0].architecture
        if architecture not in speeds:
            speeds[architecture] = measure_flops_per_second(reproduction.grid.base(family))
        hours = flops / speeds[architecture] / 3600
        total += hours
        rows.append([left.family, left.trials, f"{left.steps:,}", f"{left.train_flops:.3g}",
                     f"{left.evaluate_flops:.3g}", f"{hours:.2f}"])
    if not rows:
        return "nothing is missing"
    table = tabulate(rows, ["family", "runs", "steps", "training", "evaluation", "hours"], "plain",
                     disable_numparse=True, colalign=("left", *["right"] * 5))
    return (f"{table}\nFLOPs; hours at the speed of a training step measured here. The cost of evaluation is a guess: "
            f"it depends on how many images withstand.\nin all {total:.2f} hours")
