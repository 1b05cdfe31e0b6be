"""A small network on the embedded Fashion-MNIST images, trained with MOREL(<-MART) in a minute on two CPU cores.

    morel quickstart --workdir=runs/quickstart
"""
from morel_jax.configuration import ConfigDict, recipe, set_radius
from morel_jax.data.readers.fashion_mnist import RADII


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default convnet_small,morel_mart,paper."""
    config = recipe(spec or "convnet_small,morel_mart,paper")
    config.data.name = "fashion_mnist_small"
    config.data.crop_padding = 1
    config.epochs = 5
    config.batch_size = 50
    config.optimizer.update(dict(learning_rate=0.05, drop_epochs=(4,), drop_factors=(0.1,)))
    set_radius(config, config.attack.norm, RADII[config.attack.norm])
    config.validation.batch_size = 500
    config.validation.examples = 1000  # Between epochs; the command judges on all 2,000 in the end.
    return config
