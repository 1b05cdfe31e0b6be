"""Doing what a plan needs: training families, and judging their runs."""
import io
import sys

import jax
import numpy as np

from morel_jax import builders, evaluation, training
from morel_jax.attacks.keys import fold_in_each
from morel_jax.data.augment import to_float
from morel_jax.evaluation.trained import as_logits_fn, load_variables
from morel_jax.files import make_folder, write_atomically
from morel_jax.progress import AttackProgress
from morel_jax.reproduction.plan import HEAT_MAP, SURROGATE_CHECKPOINT
from morel_jax.reproduction.scales import PROTOCOLS

# The images of Figure 3 are drawn with this seed.
_HEAT_MAP_SEED = 0


def train(plan, family, progress=True):
    """Trains a family's runs, or goes on with them; nothing where all are trained."""
    runs = plan.runs(family)
    if all(run.is_trained() for run in runs):
        return
    if len(runs) == 1:
        training.fit(runs[0].member.config, runs[0].folder, progress=progress or "epochs")
        return
    base = plan.grid.base(family)
    training.fit_population(base, [run.member.changes for run in runs], plan.folder / family.name,
                            progress=progress or "epochs")


def judge(plan, judgement, progress=True):
    """Judges one checkpoint, or goes on with that."""
    if judgement.is_done():
        return
    run = judgement.run
    if judgement.protocol == HEAT_MAP:
        heat_map(run, judgement, plan.grid.scale.heat_map_images)
        return
    surrogate = None
    if judgement.protocol == "transfer":
        surrogate = evaluation.load(plan.surrogate_of(run.network).folder, SURROGATE_CHECKPOINT)[0]
    logits_fn, config = evaluation.load(run.folder, judgement.which)
    test, section = builders.dataset(config).test, config.validation
    evaluation.evaluate(
        logits_fn, test.images, test.labels, PROTOCOLS[judgement.protocol], judgement.folder,
        epsilon=section.epsilon, step_size=section.step_size, variant=config.variant, surrogate=surrogate,
        examples=plan.grid.scale.examples[judgement.protocol], progress=AttackProgress(progress))


def heat_map(run, judgement, count):
    """Cosine similarities between the features of attacked and of natural images, into ``heat_map.npz``.

    ``similarity`` is float32[count, count], a row an attacked image, a column a natural one, both ordered by class;
    ``labels`` int32[count]. The images are drawn at random, the attack is that of ``config.validation``.
    """
    model, variables, config, dataset = load_variables(run.folder, judgement.which)
    logits_fn, test = as_logits_fn(model, variables), dataset.test
    index = np.random.default_rng(_HEAT_MAP_SEED).choice(len(test.labels), count, replace=False)
    index = index[np.lexsort((index, test.labels[index]))]
    x, labels = np.asarray(to_float(test.images[index])), test.labels[index]
    keys = fold_in_each(jax.random.key(config.seed), index)
    x_adv = builders.pgd(config.validation)(logits_fn, keys, x, labels)

    def features(images):
        z = model.apply(variables, images).features
        return z / jax.numpy.linalg.norm(z, axis=-1, keepdims=True)

    content = io.BytesIO()
    np.savez(content, similarity=np.asarray(features(x_adv) @ features(x).T), labels=labels)
    make_folder(judgement.folder)
    write_atomically(judgement.folder / "heat_map.npz", content.getvalue())


def carry_out(plan, families, progress=True):
    """Trains and judges what ``families`` still miss, in their order.

    Returns:
        list of Judgement that wait for a surrogate of another shard.
    """
    waiting = []
    for family in families:
        judgements = plan.judgements(family)
        if all(run.is_trained() for run in plan.runs(family)) and all(one.is_done() for one in judgements):
            continue
        print(f"{family.name}: {len(plan.runs(family))} runs", file=sys.stderr, flush=True)
        train(plan, family, progress)
        for one in plan.judgements(family):  # Anew: a run may have diverged.
            if one.protocol == "transfer" and not plan.surrogate_of(one.run.network).is_trained():
                waiting.append(one)
                continue
            judge(plan, one, progress)
    return waiting
