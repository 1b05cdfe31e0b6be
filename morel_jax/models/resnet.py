"""Residual networks for small images, in the layout of the reference implementation (kuangliu/pytorch-cifar).

Reference: He et al., arXiv:1512.03385.
"""
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from morel_jax.models.activation import relu
from morel_jax.models.batch_norm import Condition, batch_norm_of, not_printed
from morel_jax.models.convolution import Conv
from morel_jax.models.linear import Linear
from morel_jax.models.outputs import Images, Outputs, global_average_pool, standardise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; ``conv`` and ``norm`` are layers with the network's options."""
    width: int
    stride: int
    conv: partial
    norm: partial
    expansion = 1

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """float[n, height, width, c] -> float[n, height / stride, width / stride, width * expansion]."""
        y = self.conv(self.width, (3, 3), (self.stride,) * 2, ((1, 1), (1, 1)), name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, (3, 3), (1, 1), ((1, 1), (1, 1)), name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return relu(y + _shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the last is four times as wide."""
    width: int
    stride: int
    conv: partial
    norm: partial
    expansion = 4

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """float[n, height, width, c] -> float[n, height / stride, width / stride, width * expansion]."""
        y = self.conv(self.width, (1, 1), name="conv1")(x)
        y = relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, (3, 3), (self.stride,) * 2, ((1, 1), (1, 1)), name="conv2")(y)
        y = relu(self.norm(name="bn2")(y))
        y = self.conv(self.width * self.expansion, (1, 1), name="conv3")(y)
        y = self.norm(name="bn3")(y)
        return relu(y + _shortcut(self, x))


def _shortcut(block: Any, x: Images) -> Images:
    width = block.width * block.expansion
    if block.stride == 1 and x.shape[-1] == width:
        return x
    x = block.conv(width, (1, 1), (block.stride,) * 2, name="shortcut_conv")(x)
    return block.norm(name="shortcut_bn")(x)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average pooling, linear head.

    Images of any size work; each stage but the first halves it. Initial values are PyTorch's defaults.

    Attributes:
        block: `BasicBlock` or `Bottleneck`.
        stage_sizes: blocks in each stage.
        widths: channels in each stage, before a block's expansion; the stem has the first stage's.
        stem_stride: 1, a 3x3 convolution; or 2, a 4x4 one that halves the image.
        dtype: compute type of convolutions and activations; parameters, statistics and outputs are float32.
        mean, std: one number per channel, to normalise images inside the model; or None.
        batch_norm_momentum: weight of the old running statistics.
        batch_norm_axis_name, batch_norm_views, batch_norm_pivot, batch_norm_condition: `axis_name`, `views`, `pivot`
            and `condition` of BatchNorm.
        remat: with ``train=True`` keep only the blocks' inputs for a gradient and compute the rest again. A gradient
            with running statistics, as in an attack, needs little more than the signs under each relu and keeps them.
    """
    num_classes: int
    block: type[BasicBlock] | type[Bottleneck]
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem_stride: int = 1
    dtype: DTypeLike = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_norm_momentum: float = 0.9
    batch_norm_axis_name: str | None = None
    batch_norm_views: tuple[int, int] = (1, 1)
    batch_norm_pivot: str = "first"
    batch_norm_condition: Condition = not_printed(None)
    remat: bool = False

    folds: ClassVar = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "shortcut_conv": "shortcut_bn"}

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Outputs:
        """Features and logits of images in [0, 1]."""
        conv = partial(Conv, dtype=self.dtype)
        norm = batch_norm_of(self, train)
        block = nn.remat(self.block) if self.remat and train else self.block
        x = standardise(images, self.mean, self.std, self.dtype)
        stem = (2 + self.stem_stride,) * 2
        x = conv(self.widths[0], stem, (self.stem_stride,) * 2, ((1, 1), (1, 1)), name="conv1")(x)
        x = relu(norm(name="bn1")(x))
        for stage, (width, size) in enumerate(zip(self.widths, self.stage_sizes, strict=True)):
            for i in range(size):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(width, stride, conv, norm, name=f"layer{stage + 1}_{i}")(x)
        features = global_average_pool(x)
        return Outputs(features, Linear(self.num_classes, name="linear")(features))


resnet18 = partial(ResNet, block=BasicBlock, stage_sizes=(2, 2, 2, 2))
resnet34 = partial(ResNet, block=BasicBlock, stage_sizes=(3, 4, 6, 3))
resnet50 = partial(ResNet, block=Bottleneck, stage_sizes=(3, 4, 6, 3))
resnet101 = partial(ResNet, block=Bottleneck, stage_sizes=(3, 4, 23, 3))
resnet152 = partial(ResNet, block=Bottleneck, stage_sizes=(3, 8, 36, 3))

# Three narrow stages (He et al., section 4.2) for machines without a GPU.
resnet8 = partial(ResNet, block=BasicBlock, stage_sizes=(1, 1, 1), widths=(16, 32, 64))
resnet14 = partial(ResNet, block=BasicBlock, stage_sizes=(2, 2, 2), widths=(16, 32, 64))
resnet20 = partial(ResNet, block=BasicBlock, stage_sizes=(3, 3, 3), widths=(16, 32, 64))
# A quarter of the work, for two CPU cores.
resnet8_half = partial(resnet8, stem_stride=2)
