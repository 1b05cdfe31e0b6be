"""Where the tensors of our networks lie in PyTorch's layouts, and how they are turned. Needs no PyTorch.

CIFAR ResNets (kuangliu/pytorch-cifar, and so MOREL's reference implementation, TRADES, MART, AWP and RobustBench):
``conv1.weight``, ``bn1.*``, ``layer1.0.conv1.weight``, ``layer2.0.shortcut.0.weight``, ``layer2.0.shortcut.1.*``,
``linear.*``. Wide ResNets (the TRADES repository, and so those others): ``conv1.weight``, ``block1.layer.0.bn1.*``,
``block1.layer.0.conv1.weight``, ``block1.layer.0.convShortcut.weight``, ``bn1.*``, ``fc.*``. ``convnet_small``, which
is ours: ``conv1.weight``, ``bn1.*``, ``conv2.weight``, ``bn2.*``, ``hidden.*``, ``linear.*``.
"""
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from morel_jax import models

# Kernels: HWIO or [inputs, outputs] here, OIHW or [outputs, inputs] there. Everything else is a vector.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_HIDDEN = "hidden.weight"  # Takes a flattened image: [height, width, channel] here, [channel, height, width] there.


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a network.

    Attributes:
        path: in the variables, such as ('params', 'layer1_0', 'bn1', 'scale').
        shape: in PyTorch.
        channels: of the flattened image that this matrix takes; 0 for every other tensor.
    """
    path: tuple[str, ...]
    shape: tuple[int, ...]
    channels: int = 0

    def to_torch(self, value):
        """Our array as PyTorch has it: numpy, contiguous, in memory of its own."""
        value = np.asarray(value)
        if self.channels:
            value = value.reshape(-1, self.channels, self.shape[0]).swapaxes(0, 1).reshape(-1, self.shape[0])
        return np.array(value.transpose(_TO_TORCH[value.ndim]), order="C")

    def from_torch(self, value):
        """The inverse of :meth:`to_torch`: a float32 JAX array, copied."""
        value = np.asarray(value).transpose(_FROM_TORCH[len(self.shape)])
        if self.channels:
            value = value.reshape(self.channels, -1, self.shape[0]).swapaxes(0, 1).reshape(-1, self.shape[0])
        return jnp.array(value, jnp.float32)


def head(name):
    """The last layer's name in PyTorch.

    Raises:
        ValueError: the network has no PyTorch layout.
    """
    if name.startswith("wide_resnet"):
        return "fc"
    if name.startswith("resnet") or name == "convnet_small":
        return "linear"
    raise ValueError(f"only convnet_small, resnet… and wide_resnet… have a PyTorch layout; got {name!r}.")


def torch_key(path, name):
    """Name in PyTorch of the leaf at a path."""
    *modules, leaf = path[1:]
    joined = ".".join(modules)
    if head(name) == "fc":
        joined = re.sub(r"^(block\d+)_", r"\1.layer.", joined).replace("conv_shortcut", "convShortcut")
        joined = re.sub("^linear$", "fc", joined)
    else:
        joined = re.sub(r"^(layer\d+)_", r"\1.", joined)
        joined = joined.replace("shortcut_conv", "shortcut.0").replace("shortcut_bn", "shortcut.1")
    return f"{joined}.{_LEAVES.get(leaf, leaf)}"


def torch_shape(leaf):
    """Shape that one of our arrays has in PyTorch."""
    return tuple(leaf.shape[i] for i in _TO_TORCH.get(leaf.ndim, range(leaf.ndim)))


def create_options(name, shapes, num_classes=None):
    """Keyword arguments of ``morel_jax.models.create`` that the tensors' shapes tell.

    Args:
        name: of a network.
        shapes: PyTorch's names -> shapes in PyTorch.
        num_classes: None takes as many as the last layer has.
    """
    found = {"num_classes": _axis(shapes, f"{head(name)}.weight", 0) if num_classes is None else num_classes}
    if name == "convnet_small":
        found["width"] = _axis(shapes, "conv1.weight", 0)
    return found


def layout(name, shapes, num_classes=None):
    """Every tensor that the network ``name`` has, in the sizes that its first and last layers say.

    Args:
        name, shapes, num_classes: as in :func:`create_options`.

    Returns:
        dict from PyTorch's names to `Tensor`.
    """
    chosen = create_options(name, shapes, num_classes)
    size, channels = (32, 32), 0
    if name == "convnet_small":
        channels = 2 * chosen["width"]
        # Two strides of 2 leave one value of 4 x 4 pixels; how height and width share them matters to no shape.
        size = (4, 4 * max(_axis(shapes, _HIDDEN, 1) // channels, 1))
    images = jax.ShapeDtypeStruct((1, *size, _axis(shapes, "conv1.weight", 1)), jnp.float32)
    flat = flatten_dict(jax.eval_shape(models.create(name, **chosen).init, jax.random.key(0), images))
    keys = {path: torch_key(path, name) for path in flat}
    return {keys[path]: Tensor(path, torch_shape(leaf), channels if keys[path] == _HIDDEN else 0)
            for path, leaf in flat.items()}


def check_same(shapes, tensors, what, name):
    """Raises ValueError naming the first tensor that is missing, unexpected or of another shape, and the shapes.

    Args:
        shapes: PyTorch's names -> shapes in PyTorch, as they are.
        tensors: what :func:`layout` returned.
        what: whose tensors these are, for the message.
        name: of the network.
    """
    for tensor, expected in tensors.items():
        if tensor not in shapes:
            raise ValueError(f"{what}: {tensor!r} of shape {expected.shape} is missing; {name} has such a tensor.")
    for tensor, shape in shapes.items():
        if tensor not in tensors:
            raise ValueError(f"{what}: {tensor!r} of shape {shape} is unexpected; {name} has no such tensor.")
    for tensor, expected in tensors.items():
        if shapes[tensor] != expected.shape:
            raise ValueError(f"{what}: {tensor!r} must have shape {expected.shape} in {name}; got {shapes[tensor]}.")


def _axis(shapes, tensor, axis):
    """Size of one axis; where there is none, any number will do, as the tensor is then reported."""
    shape = shapes.get(tensor, ())
    return shape[axis] if len(shape) > axis else 1
