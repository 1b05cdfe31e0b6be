"""A run of a few steps on 200 embedded images, for commands that are killed; also ``reproduce --scale=smoke``'s."""
from morel_jax.configuration import recipe


def get_config(spec=""):
    """Config of "architecture,method,variant", by default convnet_small,morel_mart,paper."""
    config = recipe(spec or "convnet_small,morel_mart,paper")
    config.data.name = "fashion_mnist_small"
    config.data.crop_padding = 1
    config.epochs = 2
    config.batch_size = 20
    config.optimizer.update(dict(learning_rate=0.05, drop_epochs=(), drop_factors=()))
    config.attack.update(dict(epsilon=0.1, step_size=0.05, num_steps=2))
    config.validation.update(dict(epsilon=0.1, step_size=0.01, batch_size=50, examples=50))
    config.loss.loat_last_epoch = 2
    # All but 200 images are kept out of the training.
    config.validation.split, config.validation.holdout = "holdout", 9800
    # Checkpoints within an epoch too.
    config.checkpoint.every_seconds = 0.05
    return config
