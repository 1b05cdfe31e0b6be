"""A few steps on a few embedded images: whether everything works, not how well. For ``reproduce --scale=smoke``.

    morel reproduce --all --scale=smoke --root=runs/smoke
"""
from morel_jax.configuration import ConfigDict, recipe


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default convnet_small,morel_mart,paper."""
    config = recipe(spec or "convnet_small,morel_mart,paper")
    config.data.name = "fashion_mnist_small"
    config.data.crop_padding = 1
    config.epochs = 1
    config.batch_size = 50
    config.optimizer.update(dict(learning_rate=0.05, drop_epochs=(), drop_factors=()))
    config.attack.update(dict(epsilon=0.1, step_size=0.05, num_steps=2))
    config.validation.update(dict(epsilon=0.1, step_size=0.01, batch_size=100, examples=100))
    config.loss.loat_last_epoch = 2
    # All but these many images are kept out of the training.
    config.validation.split, config.validation.holdout = "holdout", 9800
    return config
