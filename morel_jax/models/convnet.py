"""Small convolutional network that two CPU cores train in a minute."""
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from morel_jax.models.activation import relu
from morel_jax.models.batch_norm import Condition, batch_norm_of, not_printed
from morel_jax.models.convolution import Conv
from morel_jax.models.fusion import fusion_barrier
from morel_jax.models.linear import Linear
from morel_jax.models.outputs import Images, Outputs, standardise


class ConvNet(nn.Module):
    """Two 4x4 convolutions of stride 2, each with BatchNorm and relu, a hidden linear layer with relu, a linear head.

    The head's input, `features`, is 8 * width wide. Initial values are PyTorch's defaults. The hidden layer ties the
    parameters to one image size.

    Attributes:
        width: channels of the first convolution; the second has twice as many.
        dtype, mean, std, batch_norm_momentum, batch_norm_axis_name, batch_norm_views, batch_norm_pivot,
            batch_norm_condition: as in `morel_jax.models.resnet.ResNet`.
    """
    num_classes: int
    width: int = 16
    dtype: DTypeLike = jnp.float32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_norm_momentum: float = 0.9
    batch_norm_axis_name: str | None = None
    batch_norm_views: tuple[int, int] = (1, 1)
    batch_norm_pivot: str = "first"
    batch_norm_condition: Condition = not_printed(None)

    folds: ClassVar = {"conv1": "bn1", "conv2": "bn2"}

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Outputs:
        """Features and logits of images in [0, 1]."""
        conv = partial(Conv, kernel_size=(4, 4), strides=(2, 2), padding=((1, 1), (1, 1)), dtype=self.dtype)
        norm = batch_norm_of(self, train)
        x = standardise(images, self.mean, self.std, self.dtype)
        x = relu(norm(name="bn1")(conv(self.width, name="conv1")(x)))
        x = fusion_barrier(relu(norm(name="bn2")(conv(2 * self.width, name="conv2")(x))))
        features = relu(Linear(8 * self.width, name="hidden")(x.reshape(x.shape[0], -1)))
        return Outputs(features, Linear(self.num_classes, name="linear")(features))
