"""Fashion-MNIST, 60,000 + 10,000 grey images of 28x28; not in the paper, whose settings it takes.

    morel train --config=fashion_mnist:resnet18,morel_mart,paper --workdir=runs/fashion
"""
from morel_jax.configuration import ConfigDict, recipe, set_radius
from morel_jax.data.readers.fashion_mnist import RADII


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default resnet18,morel_mart,paper."""
    config = recipe(spec)
    config.data.name = "fashion_mnist"
    set_radius(config, config.attack.norm, RADII[config.attack.norm])
    config.data.crop_padding = 2  # The garments fill the frame: a shift of 4 would cut them.
    return config
