"""CIFAR-10, as in the paper's Tables 1, 2, 6, 7 and 8.

    morel train --config=cifar10:resnet18,morel_mart,paper --workdir=runs/cifar10
"""
from morel_jax.configuration import ConfigDict, recipe


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default resnet18,morel_mart,paper."""
    config = recipe(spec)
    config.data.name = "cifar10"
    return config
