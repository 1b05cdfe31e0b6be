"""Weights to and from PyTorch, in the layouts of the reference implementation. Needs no PyTorch.

CIFAR ResNets (kuangliu/pytorch-cifar): ``conv1.weight``, ``bn1.*``, ``layer1.0.conv1.weight``,
``layer2.0.shortcut.0.weight``, ``layer2.0.shortcut.1.*``, ``linear.*``. Wide ResNets (the TRADES repository):
``conv1.weight``, ``block1.layer.0.bn1.*``, ``block1.layer.0.conv1.weight``,
``block1.layer.0.convShortcut.weight``, ``bn1.*``, ``fc.*``.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from morel_jax import models

# Kernels: HWIO or [inputs, outputs] here, OIHW or [outputs, inputs] there. Everything else is a vector.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def import_state_dict(state_dict, name, num_classes=None):
    """A PyTorch state dict as variables of ``morel_jax.models.create(name, num_classes)``.

    Args:
        state_dict: mapping from PyTorch's names to anything ``numpy.asarray`` takes, such as CPU tensors. A
            prefix ``module.`` is dropped; ``num_batches_tracked`` is not read, nor is ``sub_block1``, which
            the TRADES networks carry without using it.
        name: ``resnet…`` or ``wide_resnet<depth>_<width>``.
        num_classes: None takes as many as the last layer has. Image channels are the first layer's.

    Returns:
        {"params": …, "batch_stats": …}, float32, copied.

    Raises:
        ValueError: the name has no PyTorch layout, or a tensor is missing, unexpected or of another shape;
            names the first such tensor and both shapes.
    """
    tensors = {key.removeprefix("module."): value for key, value in state_dict.items()}
    tensors = {key: np.asarray(value) for key, value in tensors.items() if not _is_unused(key)}
    head = _head(name)
    stem_channels = _axis(tensors, "conv1.weight", 1)
    num_classes = _axis(tensors, f"{head}.weight", 0) if num_classes is None else num_classes
    paths = _paths(name, num_classes, stem_channels)
    _check_same({key: tensor.shape for key, tensor in tensors.items()},
                {key: shape for key, (_, shape) in paths.items()}, "state dict", name)
    return unflatten_dict({
        path: jnp.array(tensors[key].transpose(_FROM_TORCH[len(shape)]), jnp.float32)
        for key, (path, shape) in paths.items()})


def export_state_dict(variables, name):
    """Variables of a model as a PyTorch state dict; the inverse of `import_state_dict`, bit for bit.

    Each BatchNorm's ``num_batches_tracked`` is int64 zero. The TRADES networks' unused ``sub_block1`` is not
    written, so load theirs with ``strict=False``.

    Args:
        variables: {"params": …, "batch_stats": …} of ``morel_jax.models.create(name, …)``.
        name: ``resnet…`` or ``wide_resnet<depth>_<width>``.

    Returns:
        dict from PyTorch's names to numpy arrays that own their memory.

    Raises:
        ValueError: the name has no PyTorch layout, or the variables are not this model's; names the first
            tensor and both shapes.
    """
    head = _head(name)
    tensors = {}
    for path, value in flatten_dict({kind: variables[kind] for kind in ("params", "batch_stats")}).items():
        value = np.asarray(value)
        tensors[_key(path, name)] = np.array(value.transpose(_TO_TORCH.get(value.ndim)), order="C")
    paths = _paths(name, _axis(tensors, f"{head}.weight", 0), _axis(tensors, "conv1.weight", 1))
    _check_same({key: tensor.shape for key, tensor in tensors.items()},
                {key: shape for key, (_, shape) in paths.items()}, "variables", name)
    counts = {key.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
              for key in tensors if key.endswith("running_mean")}
    return tensors | counts


def _head(name):
    if name.startswith("wide_resnet"):
        return "fc"
    if name.startswith("resnet"):
        return "linear"
    raise ValueError(f"only resnet… and wide_resnet… have a PyTorch layout; got {name!r}.")


def _is_unused(key):
    return key.endswith("num_batches_tracked") or key.startswith("sub_block1.")


def _axis(tensors, key, axis):
    """Size of one axis; where there is none, any number will do, as the tensor is then reported."""
    return tensors[key].shape[axis] if key in tensors and tensors[key].ndim > axis else 1


def _key(path, name):
    """Name in PyTorch of the leaf at a path such as ('params', 'layer1_0', 'bn1', 'scale')."""
    *modules, leaf = path[1:]
    key = ".".join(modules)
    if _head(name) == "fc":
        key = re.sub(r"^(block\d+)_", r"\1.layer.", key).replace("conv_shortcut", "convShortcut")
        key = re.sub("^linear$", "fc", key)
    else:
        key = re.sub(r"^(layer\d+)_", r"\1.", key)
        key = key.replace("shortcut_conv", "shortcut.0").replace("shortcut_bn", "shortcut.1")
    return f"{key}.{_LEAVES.get(leaf, leaf)}"


def _paths(name, num_classes, channels):
    """PyTorch's name -> (path in the variables, PyTorch's shape), for every tensor of the model."""
    images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    model = models.create(name, num_classes)
    flat = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))
    return {_key(path, name): (path, tuple(leaf.shape[i] for i in _TO_TORCH[leaf.ndim]))
            for path, leaf in flat.items()}


def _check_same(got, expected, what, name):
    for key, shape in expected.items():
        if key not in got:
            raise ValueError(f"{what}: {key!r} of shape {shape} is missing; {name} has such a tensor.")
    for key, shape in got.items():
        if key not in expected:
            raise ValueError(f"{what}: {key!r} of shape {shape} is unexpected; {name} has no such tensor.")
    for key, shape in expected.items():
        if got[key] != shape:
            raise ValueError(f"{what}: {key!r} must have shape {shape} in {name}; got {got[key]}.")
