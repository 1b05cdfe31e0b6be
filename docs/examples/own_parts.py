"""One's own data, model, loss and attack: trained with MOREL, and judged. The argument is the run's folder."""
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import data, evaluation, losses, models, training
from morel_jax.configuration import recipe

EPSILON = 8 / 255


def bars(count, seed):
    random = np.random.default_rng(seed)
    images, labels = random.integers(90, 166, (count, 12, 12, 1)), random.integers(0, 4, count)
    for image, label, place in zip(images, labels, random.integers(0, 12, count), strict=True):
        line = image if label % 2 else image.swapaxes(0, 1)
        line[place] += 90 if label < 2 else -90  # A bright or dark row or column in noise.
    return data.Split(images.astype(np.uint8), labels.astype(np.int32))


class Net(nn.Module):
    batch_norm_momentum: float = 0.9

    @nn.compact
    def __call__(self, images, train=False):
        x = models.Conv(16, (5, 5))(images - 0.5)
        x = models.BatchNorm(not train, self.batch_norm_momentum)(x)
        features = nn.relu(x).max(axis=(1, 2))
        return models.Outputs(features, models.Linear(4)(features))


def loss(views, labels, hparams):  # float[n]
    return losses.cross_entropy(views.logits, labels) + hparams.beta * losses.cross_entropy(views.logits_adv, labels)


def attack(logits_fn, keys, x, y):  # One step from a random point; a key and a row an example.
    noise = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], minval=-EPSILON, maxval=EPSILON))(keys)
    gradient = jax.grad(lambda x: losses.cross_entropy(logits_fn(x), y).sum())(x + noise)
    return jnp.clip(x + jnp.clip(noise + EPSILON * jnp.sign(gradient), -EPSILON, EPSILON), 0, 1)


dataset = data.Dataset("bars", bars(1000, seed=0), bars(200, seed=1), 4, ("| bright", "- bright", "| dark", "- dark"))
config = recipe("resnet18,morel_trades,paper")  # What is not one's own: MOREL, its numbers, SGD, validation.
config.update(dict(epochs=4, batch_size=50))
config.data.crop_padding, config.loss.beta, config.optimizer.learning_rate = 0, 1.0, 0.02
training.fit(config, sys.argv[1], dataset=dataset, model=Net(), loss=loss, attack=attack)

logits_fn, _ = evaluation.load(sys.argv[1], "last", model=Net())
summary = evaluation.evaluate(logits_fn, dataset.test.images, dataset.test.labels,
                              ["pgd20", ("one-step", attack), "apgd-ce"], f"{sys.argv[1]}/judged", epsilon=EPSILON)
print({"clean": summary["clean"]["correct"]} | {name: one["correct"] for name, one in summary["attacks"].items()})
