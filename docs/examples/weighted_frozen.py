"""Rare classes weigh more, and the first layer stays as it is. The argument is the run's folder."""
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from morel_jax import data, evaluation, losses, training
from morel_jax.configuration import recipe

whole = data.load("fashion_mnist_small")
random = np.random.default_rng(0)
kept = random.random(len(whole.train.labels)) < np.where(whole.train.labels < 5, 0.1, 1.0)  # Five classes are rare.
images, labels = whole.train.images[kept][:600], whole.train.labels[kept][:600]
test = data.Split(whole.test.images[:200], whole.test.labels[:200])
dataset = data.Dataset("unbalanced", data.Split(images, labels), test, whole.num_classes, whole.class_names)

counts = np.bincount(labels, minlength=10)
WEIGHTS = jnp.asarray(len(labels) / (10 * counts), jnp.float32)  # Mean 1 over the images.


def loss(views, labels, hparams):  # float[n]
    return WEIGHTS[labels] * losses.trades(views.logits, views.logits_adv, labels, hparams.beta)


def roles(params):
    """Of each array, by its path: whether it is trained."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if "conv1" in jax.tree_util.keystr(path) else "trained", params)


optimizer = optax.multi_transform({"trained": optax.trace(0.9), "frozen": optax.set_to_zero()}, roles)

config = recipe("convnet_small,morel_trades")
config.update(dict(epochs=2, batch_size=50))
config.optimizer.learning_rate = 0.02
config.attack.num_steps = config.validation.num_steps = 2
training.fit(config, sys.argv[1], dataset=dataset, loss=loss, optimizer=optimizer)

logits_fn, _ = evaluation.load(sys.argv[1], "last")
found = np.asarray(logits_fn(np.float32(test.images) / 255)).argmax(-1)
print(f"{np.mean(found == test.labels):.1%} correct, {np.mean(found < 5):.1%} called one of the rare")
