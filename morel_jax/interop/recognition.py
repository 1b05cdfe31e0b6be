"""What a PyTorch state dict holds: which tensors are the network's, how they are wrapped, which network it is."""
import re

import numpy as np

from morel_jax import models

# Of torch.nn.DataParallel, torch.compile, wrappers that normalise, and torch.nn.Sequential(normalisation, network).
_PREFIXES = ("module.", "_orig_mod.", "model.", "basic_net.", "net.", "1.")
_MEAN_AND_STD = (("mu", "sigma"), ("mean", "std"), ("normalize.mean", "normalize.std"),
                 ("normalizer.mean", "normalizer.std"), ("normalizer.new_mean", "normalizer.new_std"),
                 ("0.mean", "0.std"))
_NORMALISATION = tuple(key for pair in _MEAN_AND_STD for key in pair)
_MOST_CHANNELS = 1000  # Of images; a file can claim more.
_BLOCK = 30  # Tensors that each block of a wide ResNet's first group implies: ten, in three groups.
_RESNETS = ("resnet8", "resnet8_half", "resnet14", "resnet20", "resnet18", "resnet34", "resnet50", "resnet101",
            "resnet152")


def split(state_dict):
    """The network's own tensors and the normalisation of its images.

    Args:
        state_dict: PyTorch's names -> tensors. Prefixes that every name of the network has are dropped: ``module.``,
            ``model.``, ``basic_net.`` and so on, one inside the other. ``num_batches_tracked`` is left
            out, and so is ``sub_block1``, which the TRADES networks carry without using it.

    Returns:
        (tensors, (mean, std)): PyTorch's names -> tensors; tuples of a number a channel, or (None, None).

    Raises:
        ValueError: there is a mean without a standard deviation, or the other way round.
    """
    tensors = {str(key): value for key, value in state_dict.items()}
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
    else:
        mean = std = None
    unused = re.compile(r"(.*\.)?num_batches_tracked|sub_block1\..*")
    own = {key: value for key, value in tensors.items() if key not in _NORMALISATION and not unused.fullmatch(key)}
    return own, (mean, std)


def _numbers(key, value):
    value = np.asarray(value)
    if value.dtype.kind not in "fiu" or value.size > _MOST_CHANNELS:
        raise ValueError(f"state dict: {key!r} must have a real number for each channel; got {value.dtype} of shape "
                         f"{value.shape}.")
    return tuple(map(float, value.ravel()))


def _shared_prefix(tensors):
    for prefix in _PREFIXES:
        wrapped = [key for key in tensors if key.startswith(prefix)]
        if wrapped and all(key.startswith(prefix) or key in _NORMALISATION for key in tensors):
            return prefix
    return None


def detect(state_dict):
    """Which of our networks a state dict is of.

    Args:
        state_dict: as for :func:`split`.

    Returns:
        a name for ``morel_jax.models.create``, such as ``wide_resnet34_10`` or ``resnet18``.

    Raises:
        ValueError: none that is known, or one that this library does not have.
    """
    tensors, _ = split(state_dict)
    shapes = {key: np.shape(value) for key, value in tensors.items()}
    if "hidden.weight" in shapes and "conv2.weight" in shapes:
        return "convnet_small"
    if "fc.weight" in shapes and (blocks := _count(shapes, r"block1\.layer\.(\d+)\.conv1\.weight")):
        if len(shapes) < _BLOCK * blocks:  # Before a network of thousands of layers is built to find what is missing.
            raise ValueError(f"state dict: {blocks} blocks in block1 need at least {_BLOCK * blocks} tensors in a wide "
                             f"ResNet; got {len(shapes)}.")
        return f"wide_resnet{6 * blocks + 4}_{(0, *shapes['fc.weight'])[-1] // 64}"
    if "linear.weight" in shapes and "layer1.0.conv1.weight" in shapes:
        if "bn1.weight" not in shapes:
            raise ValueError("state dict: this is a PreActResNet (there is no 'bn1.weight' after the first "
                             "convolution), which morel_jax.models does not have.")
        return _resnet(shapes)
    raise ValueError("state dict: the network cannot be told from the tensors; known are kuangliu's ResNets "
                     "('layer1.0.conv1.weight', 'linear.weight'), TRADES' wide ResNets "
                     "('block1.layer.0.conv1.weight', 'fc.weight') and convnet_small ('hidden.weight'). The first "
                     f"tensors here: {', '.join(sorted(shapes)[:4]) or 'none'}.")


def _resnet(shapes):
    """The name whose stages are these."""
    stages = 1 + max(int(key[5]) for key in shapes if re.match(r"layer\d\.", key))
    sizes = tuple(_count(shapes, rf"layer{stage}\.(\d+)\.conv1\.weight") for stage in range(1, stages))
    bottleneck = "layer1.0.conv3.weight" in shapes
    first = (*shapes.get("conv1.weight", ()), 0, 0, 0, 0)[:4]
    for name in _RESNETS:
        model = models.create(name, 1)
        if (model.stage_sizes, model.widths[0], 2 + model.stem_stride, model.block.expansion == 4) == (
                sizes, first[0], first[2], bottleneck):
            return name
    raise ValueError(f"state dict: no ResNet of morel_jax.models has {' + '.join(map(str, sizes))} "
                     f"{'bottleneck' if bottleneck else 'basic'} blocks after a convolution of shape {first}; known "
                     f"are {', '.join(_RESNETS)}.")


def _count(shapes, pattern):
    return sum(re.fullmatch(pattern, key) is not None for key in shapes)
