"""Pre-activation residual networks for small images: kuangliu/pytorch-cifar's with relu, DeepMind's with SiLU.

References: He et al., arXiv:1603.05027; Rebuffi et al., arXiv:2103.01946.
"""
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from morel_jax.models.activation import relu
from morel_jax.models.batch_norm import Condition, batch_norm_of, not_printed
from morel_jax.models.convolution import Conv
from morel_jax.models.linear import Linear
from morel_jax.models.outputs import Images, Outputs, global_average_pool, standardise
from morel_jax.models.wide_resnet import PreActivationBlock, SiluBlock


class PreActivationBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after BN and relu; a shortcut follows the first relu."""
    width: int
    stride: int
    conv: partial
    norm: partial
    expansion = 4

    activation: ClassVar = staticmethod(relu)

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """float[n, height, width, c] -> float[n, height / stride, width / stride, width * expansion]."""
        width = self.width * self.expansion
        y = self.activation(self.norm(name="bn1")(x))
        if self.stride != 1 or x.shape[-1] != width:
            x = self.conv(width, (1, 1), (self.stride,) * 2, name="conv_shortcut")(y)
        y = self.activation(self.norm(name="bn2")(self.conv(self.width, (1, 1), name="conv1")(y)))
        y = self.conv(self.width, (3, 3), (self.stride,) * 2, ((1, 1), (1, 1)), name="conv2")(y)
        return x + self.conv(width, (1, 1), name="conv3")(self.activation(self.norm(name="bn3")(y)))


class SiluShortcutBlock(SiluBlock):
    """`SiluBlock` whose shortcut is a 3x3 convolution of the block's input, without BN and activation."""

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """float[n, height, width, c] -> float[n, height / stride, width / stride, width]."""
        y = self.activation(self.norm(name="bn1")(x))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = self.conv(self.width, (3, 3), (self.stride,) * 2, self.padding, name="conv_shortcut")(x)
        y = self.conv(self.width, (3, 3), (self.stride,) * 2, self.padding, name="conv1")(y)
        y = self.activation(self.norm(name="bn2")(y))
        return x + self.conv(self.width, (3, 3), (1, 1), ((1, 1), (1, 1)), name="conv2")(y)


class PreActResNet(nn.Module):
    """Stem, stages of pre-activation blocks, BatchNorm and activation, global average pooling, linear head.

    Images of any size work; each stage but the first halves it. Initial values are PyTorch's defaults.

    Attributes:
        block: `PreActivationBlock`, `PreActivationBottleneck`, or `SiluShortcutBlock`, with which this is RobustBench's
            ``DMPreActResNet`` with ``Swish``.
        stage_sizes, widths: as in `morel_jax.models.resnet.ResNet`.
        final_norm: whether BatchNorm and activation follow the last block, as in Rice et al. (arXiv:2002.11569) and
            later; kuangliu's have none.
        dtype, mean, std, batch_norm_momentum, batch_norm_axis_name, batch_norm_views, batch_norm_pivot,
            batch_norm_condition, remat: as in `morel_jax.models.resnet.ResNet`.
    """
    num_classes: int
    block: type[PreActivationBlock] | type[PreActivationBottleneck]
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    final_norm: bool = True
    dtype: DTypeLike = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_norm_momentum: float = 0.9
    batch_norm_axis_name: str | None = None
    batch_norm_views: tuple[int, int] = (1, 1)
    batch_norm_pivot: str = "first"
    batch_norm_condition: Condition = not_printed(None)
    remat: bool = False

    folds: ClassVar = {"conv1": "bn2", "conv2": "bn3"}  # Of a block; nothing of the stem or the last BatchNorm.

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Outputs:
        """Features and logits of images in [0, 1]."""
        conv = partial(Conv, dtype=self.dtype)
        norm = batch_norm_of(self, train)
        block = nn.remat(self.block) if self.remat and train else self.block
        x = standardise(images, self.mean, self.std, self.dtype)
        x = conv(self.widths[0], (3, 3), padding=((1, 1), (1, 1)), name="conv1")(x)
        for stage, (width, size) in enumerate(zip(self.widths, self.stage_sizes, strict=True)):
            for i in range(size):
                x = block(width, 2 if stage > 0 and i == 0 else 1, conv, norm, name=f"layer{stage + 1}_{i}")(x)
        if self.final_norm:
            x = self.block.activation(norm(name="bn")(x))
        features = global_average_pool(x)
        return Outputs(features, Linear(self.num_classes, name="linear")(features))


preact_resnet18 = partial(PreActResNet, block=PreActivationBlock, stage_sizes=(2, 2, 2, 2))
preact_resnet34 = partial(PreActResNet, block=PreActivationBlock, stage_sizes=(3, 4, 6, 3))
preact_resnet50 = partial(PreActResNet, block=PreActivationBottleneck, stage_sizes=(3, 4, 6, 3))
preact_resnet18_silu = partial(preact_resnet18, block=SiluShortcutBlock)
preact_resnet34_silu = partial(preact_resnet34, block=SiluShortcutBlock)
