"""Classifiers by name, and the embedding space they are trained with."""
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from morel_jax.models import preact_resnet, resnet
from morel_jax.models.batch_norm import BatchNorm
from morel_jax.models.convnet import ConvNet
from morel_jax.models.convolution import Conv
from morel_jax.models.embedding import EmbeddingSpace
from morel_jax.models.linear import Linear
from morel_jax.models.outputs import Outputs, check_normalisation
from morel_jax.models.wide_resnet import SiluWideResNet, WideResNet, check_size
from morel_jax.models.wrapped import from_functions, wrap

# The layers are for users' own models: their derivatives are fast on CPU, and BatchNorm is PyTorch's.
__all__ = ["BatchNorm", "Conv", "EmbeddingSpace", "Linear", "Outputs", "create", "from_functions", "wrap"]

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "convnet_small": ConvNet,
    "resnet8": resnet.resnet8,
    "resnet8_half": resnet.resnet8_half,
    "resnet14": resnet.resnet14,
    "resnet20": resnet.resnet20,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "preact_resnet18": preact_resnet.preact_resnet18,
    "preact_resnet34": preact_resnet.preact_resnet34,
    "preact_resnet50": preact_resnet.preact_resnet50,
    "preact_resnet18_silu": preact_resnet.preact_resnet18_silu,
    "preact_resnet34_silu": preact_resnet.preact_resnet34_silu,
}


# ImageNet's full set has 21,841; a larger number is a slip, which would fail only when memory runs out.
_MOST_CLASSES = 100_000


def create(name: str, num_classes: int, *, dtype: DTypeLike = jnp.float32, mean: Sequence[float] | None = None,
           std: Sequence[float] | None = None, batch_norm_momentum: float = 0.9, **options: Any) -> nn.Module:
    """A classifier, as a Flax module: ``apply(variables, images, train=False)`` -> `Outputs`.

    Images are float32[n, height, width, channels] in [0, 1]. With ``train=True`` BatchNorm uses and records batch
    statistics, so ``apply`` needs ``mutable=["batch_stats"]``.

    Args:
        name: a name in the table above (`_MODELS`), or ``wide_resnet<depth>_<width>`` such as ``wide_resnet34_10``.
            ``wide_resnet28_10_silu`` and ``preact_resnet18_silu`` are DeepMind's networks (Gowal et al., Rebuffi et
            al.), RobustBench's ``DMWideResNet`` and ``DMPreActResNet`` with ``Swish``.
        num_classes: number of logits.
        dtype: compute type, or its name; parameters, statistics and outputs are always float32.
        mean, std: one number per channel each, in units of images in [0, 1], to normalise images inside the model; or
            both None.
        batch_norm_momentum: weight of the old running statistics; one minus PyTorch's.
        **options: further attributes of the module, such as ``width`` for ``convnet_small``.

    Raises:
        ValueError: unknown name, impossible number of classes, dtype, momentum or normalisation.
    """
    if not isinstance(num_classes, int | np.integer) or not 1 <= num_classes <= _MOST_CLASSES:
        raise ValueError(f"num_classes must be an integer, at least 1 and at most {_MOST_CLASSES}; got {num_classes}.")
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating type; got {dtype}.")
    if not 0 <= batch_norm_momentum <= 1:
        raise ValueError(f"batch_norm_momentum must be in [0, 1]; got {batch_norm_momentum}.")
    mean, std = check_normalisation(mean, std)
    options |= dict(num_classes=num_classes, dtype=dtype, mean=mean, std=std, batch_norm_momentum=batch_norm_momentum)
    wide = re.fullmatch(r"wide_resnet(\d+)_(\d+)(_silu)?", name)
    if wide:
        depth, width = int(wide[1]), int(wide[2])
        check_size(depth, width)
        return (SiluWideResNet if wide[3] else WideResNet)(depth=depth, width=width, **options)
    if name not in _MODELS:
        raise ValueError(f"model name must be one of {', '.join(_MODELS)}, wide_resnet<depth>_<width>_silu or "
                         f"wide_resnet<depth>_<width>; got {name!r}.")
    return _MODELS[name](**options)
