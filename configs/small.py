"""All methods on equal terms on two CPU cores: the embedded Fashion-MNIST images and a small ResNet.

    morel reproduce --table=1 --table=6 --table=7 --scale=small --root=runs/small

Batch size, learning rate and epochs are the same for every method, unlike the paper's, whose baselines keep their own.
Six epochs are what 18 runs and their judgement can have in about two hours.
"""
from morel_jax.configuration import ConfigDict, recipe, set_radius
from morel_jax.data.readers.fashion_mnist import RADII


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default resnet8_half,morel_mart,paper."""
    config = recipe(spec or "resnet8_half,morel_mart,paper")
    config.data.name = "fashion_mnist_small"
    config.data.crop_padding = 1
    config.epochs = 6
    config.batch_size = 50
    config.optimizer.update(dict(learning_rate=0.05, weight_decay=5e-4, drop_epochs=(5, 6), drop_factors=(0.1, 0.01)))
    set_radius(config, config.attack.norm, RADII[config.attack.norm])
    config.validation.batch_size = 500
    # `best` is chosen on images that are neither trained nor tested on.
    config.validation.split, config.validation.holdout = "holdout", 500
    config.loss.loat_last_epoch = 6
    return config
