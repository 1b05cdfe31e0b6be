"""Tensors in files: PyTorch's, read without running what is in them, and safetensors. Only writing needs PyTorch."""
import io
import itertools
import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save

from morel_jax import checks
from morel_jax.files import local_path, reading, write_atomically
from morel_jax.interop import pickled

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_SUFFIXES = (".pt", ".pth", ".tar", ".ckpt", ".safetensors")
_MOST_GROWTH = 4
_LONGEST_NAME = 128
_MOST_TENSORS = 5_000  # ResNet-152 has a thousand.


def read(path: str | os.PathLike, key: str | None = None) -> dict[str, np.ndarray]:
    """The state dict in a file.

    Args:
        path: a ``.pt``, ``.pth``, ``.tar`` or ``.ckpt`` file of PyTorch's, or a ``.safetensors`` file. Nothing in it is
            run.
        key: entry of the file's dict to take, such as ``ema_state_dict``; dots lead into nested dicts. None takes what
            is under ``state_dict``, ``model_state_dict``, ``model`` or ``net``, if there is one.

    Returns:
        The arrays by PyTorch's names, float16 and bfloat16 widened to float32.

    Raises:
        ValueError: another suffix, a file that is damaged, holds more than tensors and plain values, or claims far more
            bytes than it has; no such entry, several to choose among, or a sparse or otherwise unusual tensor.
        FileNotFoundError: no such file.
    """
    path = _checked(path)
    values: Callable[[Any], np.ndarray] = np.asarray
    if path.suffix == ".safetensors":
        with reading(path, "is not a whole safetensors file"):
            content: Any = load_file(path)
    else:
        with reading(path, "cannot be read as tensors and plain values, and nothing else in it is run"):
            content, values = pickled.load(path)
    found = _unwrapped(content, key, path)
    arrays, room = {}, _MOST_GROWTH * path.stat().st_size
    for name, value in found.items():
        if isinstance(value, pickled.Opaque):
            raise ValueError(f"{path}: {name!r} must be a dense tensor; got one that is {value.kind}.")
        with reading(path, f"cannot be read at {name!r}"):
            arrays[name] = _widened(values(value))
        # Tied tensors share bytes, so a small file may claim very many.
        room -= arrays[name].nbytes
        if room < 0:
            raise ValueError(f"{path}: its tensors would take more than {_MOST_GROWTH} times the file's own size.")
    return arrays


def write(path: str | os.PathLike, tensors: dict[str, np.ndarray]) -> None:
    """Writes a state dict, all of it or nothing.

    Args:
        path: as for :func:`read`; the suffix chooses the format.
        tensors: dict from names to numpy arrays.

    Raises:
        ValueError: another suffix.
    """
    path = _checked(path)
    if path.suffix == ".safetensors":
        content = save(tensors, metadata={"format": "pt"})
    else:
        with checks.needing_extra("torch", "writing PyTorch's own files (safetensors does not)"):
            import torch

        buffer = io.BytesIO()
        torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, buffer)
        content = buffer.getvalue()
    write_atomically(path, content)


def _checked(path: str | os.PathLike) -> Path:
    path = local_path(path, "path")
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"a file of weights must end in {', '.join(_SUFFIXES)}; got {str(path)!r}.")
    return path


def _unwrapped(content: Any, key: str | None, path: Path) -> Mapping[str, Any]:
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            raise ValueError(f"{path}: key must name an entry of the file; got {key!r}, and there "
                             f"{_entries(content)}.")
        content = content[part]
    seen = set()
    while isinstance(content, Mapping):
        if id(content) in seen:
            raise ValueError(f"{path}: no state dict is in it, only a dict that holds itself.")
        seen.add(id(content))
        nested = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        if len(nested) > 1:
            raise ValueError(f"{path}: key must choose among {', '.join(nested)}; got none.")
        if not nested:
            break
        content = content[nested[0]]
    if not isinstance(content, Mapping) or not all(map(_is_tensor, content.values())):
        raise ValueError(f"{path}: no state dict is under {', '.join(_WRAPPERS)}; give its key, as there "
                         f"{_entries(content)}.")
    if len(content) > _MOST_TENSORS:
        raise ValueError(f"{path}: a state dict must have at most {_MOST_TENSORS} tensors; got {len(content)}.")
    for name in content:
        if not isinstance(name, str) or len(name) > _LONGEST_NAME:
            raise ValueError(f"{path}: a tensor's name must be a string of at most {_LONGEST_NAME} characters; got "
                             f"{_entries([name])}.")
    return content


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray | pickled.Lazy) or (isinstance(value, pickled.Opaque) and value.tensor)


def _entries(content: Any) -> str:
    if isinstance(content, pickled.Opaque):
        return f"is {content.kind}"
    if not isinstance(content, Mapping):
        return f"is a {type(content).__name__}"
    return "are " + (", ".join(map(_shown, itertools.islice(content, 8))) or "none")


def _shown(key: Any) -> str:
    text = key if isinstance(key, str) else reprlib.repr(key)
    return text if text.isprintable() and len(text) <= _LONGEST_NAME else reprlib.repr(text)


def _widened(value: np.ndarray) -> np.ndarray:
    if value.dtype in (np.float16, jnp.bfloat16):
        return value.astype(np.float32)  # Exact.
    if value.dtype.kind == "V":
        raise ValueError(f"tensors of type {value.dtype} are not read")
    return value
