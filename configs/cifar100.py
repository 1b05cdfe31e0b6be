"""CIFAR-100, as in the paper's Tables 1 and 2.

    morel train --config=cifar100:wide_resnet34_10,morel_mart,paper --workdir=runs/cifar100
"""
from morel_jax.configuration import ConfigDict, recipe


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default resnet18,morel_mart,paper."""
    config = recipe(spec)
    config.data.name = "cifar100"
    return config
