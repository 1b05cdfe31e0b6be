"""Fashion-MNIST, 60,000 + 10,000 grey images of 28x28; not in the paper, whose settings it takes.

    python -m morel_jax.train --config=configs/fashion_mnist.py:resnet18,morel_mart,paper --workdir=runs/fashion
"""
from morel_jax.configuration import recipe


def get_config(spec=""):
    """Config of "architecture,method,variant", by default resnet18,morel_mart,paper."""
    config = recipe(spec)
    config.data.name = "fashion_mnist"
    # 0.1 is the radius that the field uses on Fashion-MNIST; steps are epsilon/4 and epsilon/10 as for CIFAR.
    config.attack.epsilon, config.attack.step_size = 0.1, 0.025
    config.validation.epsilon, config.validation.step_size = 0.1, 0.01
    config.data.crop_padding = 2  # The garments fill the frame: a shift of 4 would cut them.
    return config
