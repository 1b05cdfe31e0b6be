"""What a network is like at some moment of its training: its features, its margins, and what pulls at its weights."""
import functools

import jax
import jax.numpy as jnp

from morel_jax import builders, gradients, training
from morel_jax.attacks import PGD
from morel_jax.data.augment import to_float
from morel_jax.data.subset import stratified_order
from morel_jax.evaluation.similarity import feature_similarity, mean_similarities
from morel_jax.evaluation.trained import load_variables
from morel_jax.methods import Views
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.workdir import load_config

# Batches of training images over which gradients are averaged, and images of each split that are attacked.
BATCHES, IMAGES = 4, 500
TERMS = ("cosine", "contrastive", "classification")


def look(folder):
    """Measurements of a run's last checkpoint.

    Returns:
        Dict of floats: ``own``, ``same_class``, ``other_class``: cosine similarities of the features of attacked test
        images with natural ones; ``margin`` and ``margin_spread``: mean and standard deviation over attacked test
        images of the true class's logit minus the largest other one; ``test``: accuracy under PGD-20, %; and of MOREL
        ``TERM_share`` and ``TERM_cosine``: of each weighted term's gradient with respect to the classifier's weights,
        its length by that of the classification term's and the cosine between the two.
    """
    return _features(folder) | _pulls(folder)


@functools.partial(jax.jit, static_argnames="model")
def _outputs(model, variables, x, y, epsilon):
    attack = PGD(epsilon, epsilon / 10, num_steps=20)
    x_adv = attack(lambda images: model.apply(variables, images).logits, jax.random.key(0), x, y)
    logits = model.apply(variables, x_adv).logits
    others = jnp.where(jax.nn.one_hot(y, logits.shape[1], dtype=bool), -jnp.inf, logits).max(1)
    return x_adv, jnp.take_along_axis(logits, y[:, None], 1)[:, 0] - others


def _features(folder):
    model, variables, config, dataset = load_variables(folder, "last")
    x, y, x_adv, margins = _under_attack(model, variables, dataset.test, config)
    return mean_similarities(feature_similarity(model, variables, x, x_adv), y) | {
        "test": 100 * float((margins > 0).mean()), "margin": float(margins.mean()),
        "margin_spread": float(margins.std())}


def accuracy_on_own(folder):
    """Accuracy of a run's last network under PGD-20 on images that it was trained on, %."""
    model, variables, config, dataset = load_variables(folder, "last")
    own, _ = builders.splits(config, dataset)
    return 100 * float((_under_attack(model, variables, own, config)[3] > 0).mean())


def _under_attack(model, variables, split, config):
    """(images, labels, attacked images, margins) of the first IMAGES of a split's order."""
    rows = stratified_order(split.labels)[:IMAGES]
    x, y = to_float(split.images[rows]), split.labels[rows]
    return x, y, *_outputs(model, variables, x, y, config.attack.epsilon)


@functools.lru_cache(maxsize=1)
def _compared(parts):
    """Jitted: the conflict of MOREL's weighted terms on one batch."""
    @jax.jit
    def conflict(params, batch_stats, hparams, weights, key, images, labels):
        def apply(classifier, x):
            return parts.model.apply({"params": classifier, "batch_stats": batch_stats}, x)

        def objectives(classifier):
            natural, adversarial = apply(classifier, images), apply(classifier, x_adv)
            s, t = parts.embedding.apply({"params": params["embedding"]}, natural.features, labels)
            s_adv, t_adv = parts.embedding.apply({"params": params["embedding"]}, adversarial.features, labels)
            views = Views(natural.logits, adversarial.logits, s, s_adv, t, t_adv)
            _, found = parts.objective(views, labels, hparams)
            return weights * jnp.stack([found[f"{term}_loss"] for term in TERMS])

        x_adv = hparams.attack(lambda x: apply(params["classifier"], x).logits, key, images, labels)
        return gradients.conflict(objectives, params["classifier"])

    return conflict


def _pulls(folder):
    config = load_config(folder)
    if not config.method.startswith("morel_"):
        return {}
    state, _ = training.fit(config, folder, progress=False)  # The run is over: this is its end.
    dataset = builders.dataset(config)
    own, _ = builders.splits(config, dataset)
    parts, hparams = build_parts(config, dataset.num_classes), build_hparams(config, config.epochs)
    first, second = config.morel.preference
    weights = jnp.array([first * config.morel.cosine_weight, first * config.morel.contrastive_weight, second])
    count = config.batch_size
    found = [_compared(parts)(state.params, state.batch_stats, hparams, weights, jax.random.key(number),
                              to_float(own.images[number * count:][:count]), own.labels[number * count:][:count])
             for number in range(BATCHES)]
    return {f"{term}_{name}": float(sum(value[place] for value in values) / BATCHES)
            for name, values in (("share", [one.norms / one.norms[2] for one in found]),
                                 ("cosine", [one.cosine[2] for one in found]))
            for place, term in enumerate(TERMS)}
