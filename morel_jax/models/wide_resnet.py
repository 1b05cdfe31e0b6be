"""Wide residual networks, activations before convolutions, no dropout: TRADES' with relu, DeepMind's with SiLU.

References: Zagoruyko and Komodakis, arXiv:1605.07146; Zhang et al., arXiv:1901.08573; Gowal et al., arXiv:2010.03593.
"""
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from morel_jax.models.activation import relu
from morel_jax.models.batch_norm import Condition, batch_norm_of, not_printed
from morel_jax.models.convolution import Conv
from morel_jax.models.linear import Linear
from morel_jax.models.outputs import Images, Outputs, global_average_pool, standardise

# Normal with variance 2 / (kernel height * kernel width * output channels), not truncated.
normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class PreActivationBlock(nn.Module):
    """BN, relu, conv, BN, relu, conv; where the shape changes, a 1x1 shortcut follows the first relu."""
    width: int
    stride: int
    conv: partial
    norm: partial
    expansion = 1

    activation: ClassVar = staticmethod(relu)
    strided_padding: ClassVar = ((1, 1), (1, 1))

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """float[n, height, width, c] -> float[n, height / stride, width / stride, width]."""
        y = self.activation(self.norm(name="bn1")(x))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = self.conv(self.width, (1, 1), (self.stride,) * 2, name="conv_shortcut")(y)
        y = self.conv(self.width, (3, 3), (self.stride,) * 2, self.padding, name="conv1")(y)
        y = self.activation(self.norm(name="bn2")(y))
        return x + self.conv(self.width, (3, 3), (1, 1), ((1, 1), (1, 1)), name="conv2")(y)

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)) of the 3x3 convolution that may stride."""
        return ((1, 1), (1, 1)) if self.stride == 1 else self.strided_padding


class SiluBlock(PreActivationBlock):
    """With SiLU, x * sigmoid(x); a 3x3 convolution of stride 2 pads only below and right, as TensorFlow's ``SAME``."""
    activation: ClassVar = staticmethod(jax.nn.silu)
    strided_padding: ClassVar = ((0, 1), (0, 1))


class WideResNet(nn.Module):
    """Stem of 16 channels, three groups of (depth - 4) / 6 blocks, global average pooling, linear head.

    Images of any size work; the last two groups halve it. Convolutions start normal with variance
    2 / (kernel area * output channels), the head's weight as in PyTorch, its bias at zero.

    Attributes:
        depth: 6n + 4, with n blocks in each group.
        width: factor on the groups' 16, 32 and 64 channels.
        dtype, mean, std, batch_norm_momentum, batch_norm_axis_name, batch_norm_views, batch_norm_pivot,
            batch_norm_condition, remat: as in `morel_jax.models.resnet.ResNet`.

    Raises:
        ValueError: depth or width is none that :func:`check_size` allows (when called).
    """
    num_classes: int
    depth: int
    width: int
    dtype: DTypeLike = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_norm_momentum: float = 0.9
    batch_norm_axis_name: str | None = None
    batch_norm_views: tuple[int, int] = (1, 1)
    batch_norm_pivot: str = "first"
    batch_norm_condition: Condition = not_printed(None)
    remat: bool = False

    block: ClassVar = PreActivationBlock
    folds: ClassVar = {"conv1": "bn2"}  # Of a block; between the stem and its own bn1 there are blocks.

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Outputs:
        """Features and logits of images in [0, 1]."""
        check_size(self.depth, self.width)
        conv = partial(Conv, dtype=self.dtype, kernel_init=normal_fan_out)
        norm = batch_norm_of(self, train)
        block = nn.remat(self.block) if self.remat and train else self.block
        x = standardise(images, self.mean, self.std, self.dtype)
        x = conv(16, (3, 3), padding=((1, 1), (1, 1)), name="conv1")(x)
        for group, channels in enumerate((16, 32, 64)):
            for i in range((self.depth - 4) // 6):
                stride = 2 if group > 0 and i == 0 else 1
                x = block(channels * self.width, stride, conv, norm, name=f"block{group + 1}_{i}")(x)
        features = global_average_pool(self.block.activation(norm(name="bn1")(x)))
        head = Linear(self.num_classes, bias_init=nn.initializers.zeros, name="linear")
        return Outputs(features, head(features))


class SiluWideResNet(WideResNet):
    """`WideResNet` of `SiluBlock`, with the same parameters: RobustBench's ``DMWideResNet`` with ``Swish``.

    That class always normalises images: give mean and std. Wang et al. (arXiv:2302.04638) train it with
    ``batch_norm_momentum`` 0.99.
    """
    block: ClassVar = SiluBlock


# The deepest residual networks ever trained have about this many layers; and the last group's kernels,
# 9 (64 width)**2 weights, are fewer than 2**31.
_DEEPEST, _WIDEST = 1000, 241


def check_size(depth: int, width: int) -> None:
    """Raises ValueError unless depth is 6n + 4 with 1 <= n <= 166, and width in 1 .. 241."""
    if not 10 <= depth <= _DEEPEST or depth % 6 != 4:
        raise ValueError("wide_resnet's depth must be 6n + 4 (10, 16, 22, 28, 34, ...), "
                         f"at most {_DEEPEST}; got {depth}.")
    if not 1 <= width <= _WIDEST:
        raise ValueError(f"wide_resnet's width must be in 1 .. {_WIDEST}; got {width}.")
