"""Tensors in files: PyTorch's, read without running what is in them, and safetensors, which need no PyTorch."""
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PICKLES = (".pt", ".pth", ".tar", ".ckpt")
SUFFIXES = (*_PICKLES, ".safetensors")


def read(path, key=None):
    """The state dict in a file.

    Args:
        path: of a ``.pt``, ``.pth``, ``.tar`` or ``.ckpt`` file, which PyTorch reads with ``weights_only=True`` so that
            nothing in it is run; or of a ``.safetensors`` file.
        key: entry of the file's dict to take, such as ``ema_state_dict``; dots lead further in. None takes what is
            under ``state_dict``, ``model_state_dict``, ``model`` or ``net``, if there is one.

    Returns:
        dict from PyTorch's names to numpy arrays; types that numpy lacks are widened to float32.

    Raises:
        ValueError: another suffix, a file that is damaged or holds more than tensors and plain values, no such entry,
            or several to choose among.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return {name: _as_numpy(value, name) for name, value in _unwrapped(content, key, path).items()}


def write(path, tensors):
    """Writes a state dict, all of it or nothing.

    Args:
        path: as for :func:`read`; the suffix chooses the format.
        tensors: dict from names to numpy arrays.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    _check_suffix(path)
    temporary = path.with_name(path.name + ".tmp")
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
    else:
        import torch

        torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, temporary)
    os.replace(temporary, path)


def _check_suffix(path):
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a file of weights must end in {', '.join(SUFFIXES)}; got {str(path)!r}.")


def _read_safetensors(path):
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error


def _read_pickle(path):
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Of many kinds: pickle's, zip's, PyTorch's own.
        reason = next((line.strip() for line in str(error).splitlines() if "nsupported" in line), type(error).__name__)
        raise ValueError(f"{path} cannot be read as tensors and plain values, and nothing else in it is run: "
                         f"{reason}") from error


def _unwrapped(content, key, path):
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            raise ValueError(f"{path}: key must name an entry of the file; got {key!r}, and there "
                             f"{_entries(content)}.")
        content = content[part]
    while isinstance(content, Mapping):
        nested = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        if len(nested) > 1:
            raise ValueError(f"{path}: key must choose among {', '.join(nested)}; got none.")
        if not nested:
            break
        content = content[nested[0]]
    if not isinstance(content, Mapping) or not all(hasattr(value, "shape") for value in content.values()):
        raise ValueError(f"{path}: no state dict is under {', '.join(_WRAPPERS)}; give its key, as there "
                         f"{_entries(content)}.")
    return content


def _entries(content):
    if not isinstance(content, Mapping):
        return f"is a {type(content).__name__}"
    return "are " + (", ".join(map(str, list(content)[:8])) or "none")


def _as_numpy(value, name):
    if isinstance(value, np.ndarray):
        return value
    if value.is_floating_point() and str(value.dtype) not in ("torch.float32", "torch.float64"):
        value = value.float()  # Exact; numpy has no bfloat16.
    return value.detach().numpy()
