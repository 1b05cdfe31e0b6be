"""PyTorch's layouts of our networks: which tensors a state dict holds, of which network, and where each belongs.

CIFAR ResNets (kuangliu/pytorch-cifar, and so MOREL's reference implementation, TRADES, MART, AWP and RobustBench):
``conv1.weight``, ``bn1.*``, ``layer1.0.conv1.weight``, ``layer2.0.shortcut.0.weight``, ``layer2.0.shortcut.1.*``,
``linear.*``. Wide ResNets (the TRADES repository, and so those others): ``conv1.weight``, ``block1.layer.0.bn1.*``,
``block1.layer.0.conv1.weight``, ``block1.layer.0.convShortcut.weight``, ``bn1.*``, ``fc.*``. PreActResNets (kuangliu,
and with the last ``bn.*`` Rice et al. and RobustBench): as ResNets, with ``layer2.0.shortcut.0.weight`` alone and no
``bn1.*``. DeepMind's networks (RobustBench's ``DMWideResNet`` and ``DMPreActResNet``): ``init_conv.weight``,
``layer.0.block.0.batchnorm_0.*``, ``layer.0.block.0.conv_0.weight``, ``layer.0.block.0.shortcut.weight``; or
``conv_2d.weight``, ``layer_0.0.batchnorm_0.*``, ``layer_0.0.conv_2d_1.weight``, ``layer_1.0.shortcut.weight``; and
``batchnorm.*``, ``logits.*``. ``convnet_small``, which is ours: ``conv1.weight``, ``bn1.*``, ``conv2.weight``,
``bn2.*``, ``hidden.*``, ``linear.*``. PyTorch is not needed.
"""
import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float32, PyTree

from morel_jax import models

Shapes = Mapping[str, tuple[int, ...]]
Numbers = tuple[float, ...]

# Kernels: HWIO or [inputs, outputs] here, OIHW or [outputs, inputs] there. Everything else is a vector.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_HIDDEN = "hidden.weight"  # Takes a flattened image: [height, width, channel] here, [channel, height, width] there.
# Of torch.nn.DataParallel, torch.compile, wrappers that normalise, and torch.nn.Sequential(normalisation, network).
_PREFIXES = ("module.", "_orig_mod.", "model.", "basic_net.", "net.", "1.")
_MEAN_AND_STD = (("mu", "sigma"), ("mean", "std"), ("normalize.mean", "normalize.std"),
                 ("normalizer.mean", "normalizer.std"), ("normalizer.new_mean", "normalizer.new_std"),
                 ("0.mean", "0.std"))
_NORMALISATION = tuple(key for pair in _MEAN_AND_STD for key in pair)
_UNUSED = re.compile(r"(.*\.)?num_batches_tracked|sub_block1\..*")
_MOST_CHANNELS = 1000  # Of images; a file can claim more.
_BLOCK = 30  # Tensors that each block of a wide ResNet's first group implies: ten, in three groups.
_RESNETS = ("resnet8", "resnet8_half", "resnet14", "resnet20", "resnet18", "resnet34", "resnet50", "resnet101",
            "resnet152")
_PREACT_RESNETS = ("preact_resnet18", "preact_resnet34", "preact_resnet50")
_SILU_PREACT_RESNETS = ("preact_resnet18_silu", "preact_resnet34_silu")


class Family(NamedTuple):
    """What networks of one kind are called in PyTorch.

    Attributes:
        stem, head: names of the first and the last layer.
        renames: (pattern, replacement) of our names, joined by dots, applied in this order.
        normalises: whether PyTorch's class always normalises images, by numbers that are not in the state dict.
    """
    stem: str
    head: str
    renames: tuple[tuple[str, str], ...]
    normalises: bool = False


_STAGES = ((r"^(layer\d+)_", r"\1."), ("shortcut_conv|conv_shortcut", "shortcut.0"), ("shortcut_bn", "shortcut.1"))
_FAMILIES = {  # By a pattern of the whole name.
    "convnet_small": Family("conv1", "linear", ()),
    r"resnet\w+": Family("conv1", "linear", _STAGES),
    r"preact_resnet\d+": Family("conv1", "linear", _STAGES),
    r"wide_resnet\d+_\d+": Family("conv1", "fc", (
        (r"^(block\d+)_", r"\1.layer."), ("conv_shortcut", "convShortcut"), ("^linear$", "fc"))),
    r"wide_resnet\d+_\d+_silu": Family("init_conv", "logits", (
        *((f"^block{group + 1}_", f"layer.{group}.block.") for group in range(3)), (r"\.bn1$", ".batchnorm_0"),
        (r"\.bn2$", ".batchnorm_1"), (r"\.conv1$", ".conv_0"), (r"\.conv2$", ".conv_1"), ("conv_shortcut", "shortcut"),
        ("^conv1$", "init_conv"), ("^bn1$", "batchnorm"), ("^linear$", "logits")), normalises=True),
    r"preact_resnet\d+_silu": Family("conv_2d", "logits", (
        *((f"^layer{stage + 1}_", f"layer_{stage}.") for stage in range(4)), (r"\.bn1$", ".batchnorm_0"),
        (r"\.bn2$", ".batchnorm_1"), (r"\.conv(\d)$", r".conv_2d_\1"), ("conv_shortcut", "shortcut"),
        ("^conv1$", "conv_2d"), ("^bn$", "batchnorm"), ("^linear$", "logits")), normalises=True),
}


def family(name: str) -> Family:
    """The names in PyTorch of the network ``name`` of ``morel_jax.models.create``.

    Raises:
        ValueError: it has no PyTorch layout.
    """
    for pattern, found in _FAMILIES.items():
        if re.fullmatch(pattern, name):
            return found
    raise ValueError("only convnet_small, resnet…, preact_resnet… and wide_resnet… have a PyTorch layout; "
                     f"got {name!r}.")


def split(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Numbers | None, Numbers | None]]:
    """The network's own tensors and the normalisation of its images.

    Args:
        state_dict: PyTorch's names -> tensors. Prefixes that all names share (``module.``, ``model.``, ``basic_net.``
            and so on, also nested) are dropped. So are ``num_batches_tracked`` and ``sub_block1``, which TRADES'
            networks have but do not use.

    Returns:
        (tensors, (mean, std)): PyTorch's names -> tensors; tuples with one number per channel, or (None, None).

    Raises:
        ValueError: there is a mean without a standard deviation, or the other way round.
    """
    tensors, mean, std = {str(key): value for key, value in state_dict.items()}, None, None
    while prefix := _shared_prefix(tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    for pair in _MEAN_AND_STD:
        present = [key for key in pair if key in tensors]
        if len(present) == 1:
            raise ValueError(f"state dict: the images' mean and standard deviation go together, as {pair[0]!r} and "
                             f"{pair[1]!r}; got {present[0]!r} alone.")
        if present:
            mean, std = (_numbers(key, tensors[key]) for key in pair)
            break
    own = {key: value for key, value in tensors.items() if key not in _NORMALISATION and not _UNUSED.fullmatch(key)}
    return own, (mean, std)


def _numbers(key: str, value: Any) -> Numbers:
    value = np.asarray(value)
    if value.dtype.kind not in "fiu" or value.size > _MOST_CHANNELS:
        raise ValueError(f"state dict: {key!r} must have a real number for each channel; got {value.dtype} of shape "
                         f"{value.shape}.")
    return tuple(map(float, value.ravel()))


def _shared_prefix(tensors: Mapping[str, Any]) -> str | None:
    names = [key for key in tensors if key not in _NORMALISATION]
    return next((prefix for prefix in _PREFIXES if any(key.startswith(prefix) for key in tensors)
                 and all(key.startswith(prefix) for key in names)), None)


def detect(state_dict: Mapping[str, Any]) -> str:
    """The name in ``morel_jax.models.create`` of a state dict's network; takes what :func:`split` takes.

    Raises:
        ValueError: the network is not known, or not one of this library's.
    """
    shapes = {key: np.shape(value) for key, value in split(state_dict)[0].items()}
    if "hidden.weight" in shapes and "conv2.weight" in shapes:
        return "convnet_small"
    for head, group, block, suffix in (("fc", "block1", r"\.layer\.\d+\.conv1\.weight", ""),
                                       ("logits", "layer.0", r"\.block\.\d+\.conv_0\.weight", "_silu")):
        if f"{head}.weight" in shapes and (blocks := _count(shapes, re.escape(group) + block)):
            if len(shapes) < _BLOCK * blocks:  # Before thousands of layers are built to find what is missing.
                raise ValueError(f"state dict: {blocks} blocks in {group} need at least {_BLOCK * blocks} tensors "
                                 f"in a wide ResNet; got {len(shapes)}.")
            return f"wide_resnet{6 * blocks + 4}_{(0, *shapes[f'{head}.weight'])[-1] // 64}{suffix}"
    if "linear.weight" in shapes and "layer1.0.conv1.weight" in shapes:
        return _detect_resnet(shapes, r"layer{}\.\d+\.conv1\.weight", (1, 2, 3, 4),
                              _RESNETS if "bn1.weight" in shapes else _PREACT_RESNETS)
    if "logits.weight" in shapes and "layer_0.0.conv_2d_1.weight" in shapes:
        return _detect_resnet(shapes, r"layer_{}\.\d+\.conv_2d_1\.weight", (0, 1, 2, 3), _SILU_PREACT_RESNETS)
    raise ValueError("state dict: the network cannot be told from the tensors; known are kuangliu's ResNets and "
                     "PreActResNets ('layer1.0.conv1.weight', 'linear.weight'), TRADES' wide ResNets "
                     "('block1.layer.0.conv1.weight', 'fc.weight'), DeepMind's ('layer.0.block.0.conv_0.weight', "
                     "'layer_0.0.conv_2d_1.weight', 'logits.weight') and convnet_small ('hidden.weight'). The first "
                     f"tensors here: {', '.join(sorted(shapes)[:4]) or 'none'}.")


def _detect_resnet(shapes: Shapes, pattern: str, stages: tuple[int, ...], names: tuple[str, ...]) -> str:
    """One of ``names``: the network with as many blocks in each stage, a name's number in ``pattern``."""
    if names is _PREACT_RESNETS and "bn.weight" not in shapes:
        raise ValueError("state dict: this is a PreActResNet without 'bn.weight' before the last layer, and tensors do "
                         "not tell whether shortcuts take the activation, as kuangliu's, or the block's input, as in "
                         "fast adversarial training; a name such as 'preact_resnet18' takes the former.")
    sizes = tuple(count for stage in stages if (count := _count(shapes, pattern.format(stage))))
    bottleneck = "layer1.0.conv3.weight" in shapes
    first = (*shapes.get(f"{family(names[0]).stem}.weight", ()), 0, 0, 0, 0)[:4]
    for name in names:
        model = models.create(name, 1)
        if (model.stage_sizes, model.widths[0], 2 + getattr(model, "stem_stride", 1), model.block.expansion == 4) == (
                sizes, first[0], first[2], bottleneck):
            return name
    raise ValueError(f"state dict: no ResNet of morel_jax.models has {' + '.join(map(str, sizes))} "
                     f"{'bottleneck' if bottleneck else 'basic'} blocks after a convolution of shape {first}; known "
                     f"are {', '.join(names)}.")


def _count(shapes: Shapes, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in shapes)


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

    def to_torch(self, value: Any) -> np.ndarray:
        """Our array in PyTorch's layout: numpy, contiguous, in memory of its own."""
        value = np.asarray(value)
        if self.channels:
            value = value.reshape(-1, self.channels, self.shape[0]).swapaxes(0, 1).reshape(-1, self.shape[0])
        return np.array(value.transpose(_TO_TORCH[value.ndim]), order="C")

    def from_torch(self, value: Any) -> Float32[Array, "..."]:
        """The inverse of :meth:`to_torch`: a float32 JAX array, copied."""
        value = np.asarray(value).transpose(_FROM_TORCH[len(self.shape)])
        if self.channels:
            value = value.reshape(self.channels, -1, self.shape[0]).swapaxes(0, 1).reshape(-1, self.shape[0])
        return jnp.array(value, jnp.float32)


def torch_shapes(variables: PyTree, name: str) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """{path in the variables: (name, shape)} of each tensor in PyTorch.

    Args:
        variables: of the network ``name``; arrays or shapes.

    Raises:
        ValueError: the network has no PyTorch layout.
    """
    found, renames = {}, family(name).renames
    for path, leaf in flatten_dict(variables).items():
        *modules, last = path[1:]
        joined = ".".join(modules)
        for pattern, replacement in renames:
            joined = re.sub(pattern, replacement, joined)
        shape = tuple(leaf.shape[i] for i in _TO_TORCH.get(leaf.ndim, range(leaf.ndim)))
        found[path] = f"{joined}.{_LEAVES.get(last, last)}", shape
    return found


def create_options(name: str, shapes: Shapes, num_classes: int | None = None) -> dict[str, Any]:
    """Keyword arguments of ``morel_jax.models.create`` that follow from the tensors' shapes in PyTorch.

    Args:
        num_classes: None takes as many as the last layer has.
    """
    head = f"{family(name).head}.weight"
    found: dict[str, Any] = {"num_classes": _axis(shapes, head, 0) if num_classes is None else num_classes}
    if name == "convnet_small":
        found["width"] = _axis(shapes, "conv1.weight", 0)
    if name in _PREACT_RESNETS:
        found["final_norm"] = "bn.weight" in shapes
    return found


def layout(name: str, shapes: Shapes, num_classes: int | None = None) -> dict[str, Tensor]:
    """Every tensor, by PyTorch's name, of the network ``name`` with the sizes of the first and last layers in
    ``shapes``.

    Arguments as in :func:`create_options`.
    """
    chosen = create_options(name, shapes, num_classes)
    size, channels = (32, 32), 0
    if name == "convnet_small":
        channels = 2 * chosen["width"]
        # Two strides of 2 leave one value of 4 x 4 pixels; how height and width share them matters to no shape.
        size = (4, 4 * max(_axis(shapes, _HIDDEN, 1) // channels, 1))
    images = jax.ShapeDtypeStruct((1, *size, image_channels(name, shapes)), jnp.float32)
    variables = jax.eval_shape(models.create(name, **chosen).init, jax.random.key(0), images)
    return {key: Tensor(path, shape, channels if key == _HIDDEN else 0)
            for path, (key, shape) in torch_shapes(variables, name).items()}


def check_same(shapes: Shapes, tensors: Mapping[str, Tensor], what: str, name: str) -> None:
    """Raises ValueError naming the first tensor that is missing, unexpected or of another shape, and the shapes.

    Args:
        shapes: the shapes that there are, in PyTorch's layout.
        tensors: what :func:`layout` returned.
        what: whose tensors these are, for the message.
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


def image_channels(name: str, shapes: Shapes) -> int:
    """Channels of the images that the network ``name`` takes, from its first layer's shape in PyTorch."""
    return _axis(shapes, f"{family(name).stem}.weight", 1)


def _axis(shapes: Shapes, tensor: str, axis: int) -> int:
    """Size of one axis, or 1 where there is none; the tensor is then reported later."""
    shape = shapes.get(tensor, ())
    return shape[axis] if len(shape) > axis else 1
