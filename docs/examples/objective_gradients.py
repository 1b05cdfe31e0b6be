"""How hard each of MOREL's terms pulls at a trained classifier, and which way. The arguments are folders of runs."""
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from morel_jax import builders, gradients, training
from morel_jax.data.augment import to_float
from morel_jax.methods import Views
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.workdir import load_config

TERMS, BATCHES = ("cosine", "contrastive", "classification"), 8


def pulls(workdir):
    """Of the gradients of k_1 L_cos, k_1 alpha L_con and k_2 L_2 in the classifier: norms, and cosines to the third."""
    config = load_config(workdir)
    state, _ = training.fit(config, workdir, progress=False)  # The run is over: this is its end.
    dataset = builders.dataset(config)
    parts, hparams = build_parts(config, dataset.num_classes), build_hparams(config, config.epochs)
    first, second = config.morel.preference
    weights = jnp.array([first * config.morel.cosine_weight, first * config.morel.contrastive_weight, second])

    def apply(classifier, images):
        return parts.model.apply({"params": classifier, "batch_stats": state.batch_stats}, images)

    def embed(features, labels):
        return parts.embedding.apply({"params": state.params["embedding"]}, features, labels)

    @jax.jit
    def compare(key, images, labels):
        def objectives(classifier):
            natural, adversarial = apply(classifier, images), apply(classifier, x_adv)
            s, t = embed(natural.features, labels)
            s_adv, t_adv = embed(adversarial.features, labels)
            _, found = parts.objective(Views(natural.logits, adversarial.logits, s, s_adv, t, t_adv), labels, hparams)
            return weights * jnp.stack([found[f"{term}_loss"] for term in TERMS])

        classifier = state.params["classifier"]
        x_adv = hparams.attack(lambda x: apply(classifier, x).logits, key, images, labels)
        return gradients.conflict(objectives, classifier)

    count = config.batch_size
    found = [compare(jax.random.key(number), to_float(dataset.train.images[number * count:][:count]),
                     dataset.train.labels[number * count:][:count]) for number in range(BATCHES)]
    return [sum(values) / BATCHES for values in zip(*((one.norms, one.cosine[2]) for one in found), strict=True)]


for folder in sys.argv[1:]:
    norms, cosines = pulls(Path(folder))
    print(json.dumps({"run": folder} | {
        term: {"norm": float(norm), "share": float(norm / norms[2]), "cosine": float(cosine)}
        for term, norm, cosine in zip(TERMS, norms, cosines, strict=True)}))
