"""A linen and an NNX network that know nothing of this library: trained with MOREL, judged, exported.

The argument is the folder of the runs.
"""
import sys
from pathlib import Path

import flax.linen as nn
import jax
import optax
from flax import nnx

from morel_jax import data, evaluation, training
from morel_jax.configuration import load_file
from morel_jax.interop import stablehlo

EPOCHS = 2


class Linen(nn.Module):
    """Flax's own BatchNorm, with its own momentum; logits alone."""

    @nn.compact
    def __call__(self, x, train: bool):
        for width in (8, 16):
            x = nn.Conv(width, (3, 3), (2, 2), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.95)(x))
        return nn.Dense(10, name="head")(x.reshape(x.shape[0], -1))


class NNX(nnx.Module):
    """Dropout, too; told by ``train()`` and ``eval()`` which mode it is in."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(784, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv2(nnx.relu(self.conv1(x)))))
        return self.head(self.dropout(x.reshape(x.shape[0], -1)))


folder = Path(sys.argv[1])
dataset = data.load("fashion_mnist_small")
config = load_file("configs/quickstart.py", "convnet_small,morel_mart,paper")  # Its network is not used.
config.epochs, config.optimizer.drop_epochs, config.optimizer.drop_factors = EPOCHS, (), ()
config.validation.update(dict(split="holdout", holdout=5000, examples=500))  # Half of the images, to make this short.

for name, model, own in (("linen", Linen(), {}), ("nnx", NNX, {"optimizer": optax.scale_by_adam()})):
    config.optimizer.learning_rate = 0.002 if own else 0.05  # Adam's direction, the config's rate.
    training.fit(config, folder / name, progress=False, model=model, features="head", **own)
    logits_fn, _ = evaluation.load(folder / name, "last", model=model)
    summary = evaluation.evaluate(logits_fn, dataset.test.images, dataset.test.labels, ["pgd20", "apgd-ce"],
                                  folder / name / "judged", epsilon=config.validation.epsilon, examples=200)
    (folder / f"{name}.stablehlo").write_bytes(stablehlo.serialise(logits_fn, dataset.image_shape))
    exported = jax.export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    images = dataset.test.images[:8] / 255.0
    same = jax.numpy.allclose(exported.call(images), logits_fn(images), atol=1e-5)
    print(f"{name}: clean {summary['clean']['accuracy']:.1%}, APGD-CE {summary['worst_case']['accuracy']:.1%}, "
          f"exported network agrees: {bool(same)}")
