"""Weights to and from PyTorch: the reference implementation, TRADES, MART, AWP, RobustBench.

PyTorch is needed only to write its own files. `morel_jax.interop.layouts` says which tensor belongs where.
"""
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from morel_jax import models
from morel_jax.files import local_path, reading
from morel_jax.interop import torch_file
from morel_jax.interop.layouts import (
    check_same,
    create_options,
    detect,
    family,
    image_channels,
    layout,
    split,
    torch_shapes,
)
from morel_jax.models.outputs import check_normalisation

__all__ = ["Imported", "detect", "export_state_dict", "import_model", "import_state_dict", "load_checkpoint",
           "save_checkpoint"]


class Imported(NamedTuple):
    """A network from PyTorch; ``model.apply(variables, images).logits`` are its logits.

    Attributes:
        name: for ``morel_jax.models.create``.
        model: Flax module, which normalises images where PyTorch's network does.
        variables: {"params": …, "batch_stats": …}, float32.
    """
    name: str
    model: nn.Module
    variables: Any


def import_model(state_dict: Mapping[str, Any], name: str | None = None, num_classes: int | None = None, *,
                 mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Imported:
    """A PyTorch state dict as a network.

    Args:
        state_dict: PyTorch's names -> anything that ``numpy.asarray`` takes, such as CPU tensors; see
            :func:`~morel_jax.interop.layouts.split` for what is dropped. Buffers that normalise images (``mu`` and
            ``sigma``, ``mean`` and ``std``, ``normalize.mean`` and ``normalize.std``) become the model's mean and std.
        name: for ``morel_jax.models.create``, such as ``resnet18``; None: detected from the tensors.
        num_classes: None takes as many as the last layer has. Image channels are the first layer's.
        mean, std: one number per channel each, of a network that normalises images by numbers in its code.

    Raises:
        ValueError: the network cannot be detected or has no PyTorch layout; a tensor is missing, unexpected or of
            another shape (the first one is named, with both shapes), not of a real floating type, or holds NaN or
            infinity; mean and std are given beside the state dict's own, are missing for one of DeepMind's networks,
            which always normalise, or do not fit images in [0, 1].
    """
    own, normalisation = split(state_dict)
    if normalisation[0] is not None:
        if mean is not None:
            raise ValueError(f"mean must be None where the state dict has its own, {normalisation[0]}; got {mean}.")
        mean, std = normalisation
    name, shapes, variables = _read(own, name, num_classes)
    if mean is None and family(name).normalises:
        raise ValueError(f"mean and std must be given for {name}: PyTorch's class normalises images by its arguments "
                         "of these names, which the state dict does not hold.")
    mean, std = check_normalisation(mean, std, image_channels(name, shapes))
    model = models.create(name, mean=mean, std=std, **create_options(name, shapes, num_classes))
    return Imported(name, model, variables)


def _read(own: Mapping[str, Any], name: str | None, num_classes: int | None,
          ) -> tuple[str, dict[str, tuple[int, ...]], PyTree]:
    """(name, shapes in PyTorch, variables) of a network's own tensors; arguments as for :func:`import_model`."""
    name = detect(own) if name is None else name
    tensors = {tensor: _as_numpy(tensor, value) for tensor, value in own.items()}
    shapes = {tensor: value.shape for tensor, value in tensors.items()}
    expected = layout(name, shapes, num_classes)
    check_same(shapes, expected, "state dict", name)
    for tensor in expected:
        _check_values(tensor, tensors[tensor])
    return name, shapes, unflatten_dict({
        place.path: place.from_torch(tensors[tensor]) for tensor, place in expected.items()})


def _as_numpy(tensor: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:  # PyTorch's own, for sparse tensors and the like.
        raise ValueError(f"state dict: {tensor!r} must be a dense tensor on the CPU that asks for no gradient; got "
                         f"{type(value).__name__} ({str(error).partition(chr(10))[0]}).") from error


def _check_values(tensor: str, value: np.ndarray) -> None:
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"state dict: {tensor!r} must be of a real floating type; got {value.dtype}.")
    with np.errstate(over="ignore"):
        value = value.astype(np.float32, copy=False)
    if not np.isfinite([value.min(initial=0.0), value.max(initial=0.0)]).all():  # NaN is the least of all to numpy.
        raise ValueError(f"state dict: {tensor!r} must be finite in float32; it holds NaN or infinite values.")


def import_state_dict(state_dict: Mapping[str, Any], name: str | None = None, num_classes: int | None = None) -> PyTree:
    """The variables of :func:`import_model` alone, for networks that take images as they are.

    Raises:
        ValueError: as there; or the state dict normalises images, which variables cannot express.
    """
    own, (mean, std) = split(state_dict)
    if mean is not None:
        raise ValueError(f"state dict: this network normalises images with mean {mean} and std {std}, which belong to "
                         "the model, not to its variables; use import_model.")
    return _read(own, name, num_classes)[2]


def load_checkpoint(path: str | os.PathLike, name: str | None = None, num_classes: int | None = None,
                    key: str | None = None, *, mean: Sequence[float] | None = None,
                    std: Sequence[float] | None = None) -> Imported:
    """A network from a file; nothing in the file is run.

    Args:
        path: a ``.pt``, ``.pth``, ``.tar`` or ``.ckpt`` file of PyTorch's, or a ``.safetensors`` file.
        name, num_classes, mean, std: as for :func:`import_model`.
        key: as for :func:`morel_jax.interop.torch_file.read`.

    Raises:
        ValueError, FileNotFoundError: as :func:`import_model` and :func:`morel_jax.interop.torch_file.read`.
    """
    path = local_path(path, "path")
    state_dict = torch_file.read(path, key)
    with reading(path, "cannot be imported"):
        return import_model(state_dict, name, num_classes, mean=mean, std=std)


def export_state_dict(variables: PyTree, name: str, *, mean: Sequence[float] | None = None,
                      std: Sequence[float] | None = None, sub_block1: bool = False) -> dict[str, np.ndarray]:
    """Variables of a model as a PyTorch state dict; the inverse of `import_state_dict`, bit for bit.

    Each BatchNorm's ``num_batches_tracked`` is int64 zero. The arrays own their memory.

    Args:
        variables: {"params": …, "batch_stats": …} of ``morel_jax.models.create(name, …)``.
        name: that one.
        mean, std: one number per channel each, of a model that normalises images; written as the buffers ``mu`` and
            ``sigma`` of shape [1, channels, 1, 1], as RobustBench's normalising networks have them. Of DeepMind's
            networks they are not written: there they are arguments of PyTorch's class.
        sub_block1: for wide ResNets, also write the unused ``sub_block1``, as a copy of ``block1``, for classes that
            have it (TRADES', and RobustBench's with ``sub_block1=True``) to load with ``strict=True``.

    Raises:
        ValueError: the name has no PyTorch layout or no ``sub_block1``, or the variables are not this model's (the
            first such tensor is named, with both shapes).
    """
    if sub_block1 and family(name).head != "fc":
        raise ValueError("sub_block1 must be False for networks other than wide_resnet<depth>_<width>; got True for "
                         f"{name!r}.")
    variables = {kind: variables[kind] for kind in ("params", "batch_stats")}
    flat, shapes = flatten_dict(variables), dict(torch_shapes(variables, name).values())
    expected = layout(name, shapes)
    check_same(shapes, expected, "variables", name)
    mean, std = check_normalisation(mean, std, image_channels(name, shapes))
    tensors = {tensor: place.to_torch(flat[place.path]) for tensor, place in expected.items()}
    tensors |= {tensor.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
                for tensor in tensors if tensor.endswith("running_mean")}
    if sub_block1:
        tensors |= {f"sub_{tensor}": value.copy() for tensor, value in tensors.items() if tensor.startswith("block1.")}
    if mean is not None and not family(name).normalises:
        tensors |= {buffer: np.array(values, np.float32).reshape(1, -1, 1, 1)
                    for buffer, values in (("mu", mean), ("sigma", std))}
    return tensors


def save_checkpoint(path: str | os.PathLike, variables: PyTree, name: str, **options: Any) -> None:
    """Writes what :func:`export_state_dict` gives: loads with ``weights_only=True`` into plain PyTorch.

    Args:
        path: ``.pt``, ``.pth``, ``.tar`` or ``.ckpt`` (needs PyTorch) or ``.safetensors`` (does not).
        variables, name, options: as for :func:`export_state_dict`.

    Raises:
        ValueError: as there, or another suffix.
    """
    torch_file.write(path, export_state_dict(variables, name, **options))
