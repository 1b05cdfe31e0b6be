"""Tiny-ImageNet at 64x64, as in the paper's Tables 4, 5 and 6 (ResNet18).

    morel train --config=tiny_imagenet:resnet18,morel_mart,paper --workdir=runs/tiny
"""
from morel_jax.configuration import ConfigDict, recipe


def get_config(spec: str = "") -> ConfigDict:
    """Config of "architecture,method,variant,threat", by default resnet18,morel_mart,paper."""
    config = recipe(spec)
    config.data.name = "tiny_imagenet"
    # The paper gives neither resolution nor crop for it: padding grows with the image, 4 of 32 -> 8 of 64.
    config.data.crop_padding = 8
    return config
