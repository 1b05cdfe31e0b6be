"""Decoded arrays on disk: .npy files, memory-mapped at the next start, and a manifest that proves them.

An entry is a folder with `manifest.json` and one .npy file an array. It is built under another name beside
its place and renamed, so a reader sees a whole entry or none. The cache may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile

import numpy as np

from morel_jax.files import read_json

_FORMAT = 2
_MANIFEST = "manifest.json"
_FIELDS = {"format": int, "source": dict, "arrays": dict, "metadata": dict}
_logger = logging.getLogger(__name__)


class _DamagedError(Exception):
    pass


def default_dir():
    """`$XDG_CACHE_HOME/morel_jax`, by default `~/.cache/morel_jax`.

    The variable is taken only where it is absolute, as the XDG base directory specification has it.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):
        return pathlib.Path(home) / "morel_jax"
    try:
        return pathlib.Path.home() / ".cache" / "morel_jax"
    except RuntimeError:
        raise ValueError("cache_dir (config.data.cache_dir) must be given where HOME is not set and no home folder is "
                         "known.") from None


def sha256(array):
    """SHA-256 of a C-contiguous array's values, without a file's header; hexadecimal."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def read(folder, source):
    """Reads an entry.

    Sizes, shapes and the SHA-256 of every array are checked (0.1 to 0.5 s for CIFAR-10's 184 MB). A damaged
    entry is reported with `logging.warning`, and is as good as none.

    Args:
        folder: the entry's folder.
        source: JSON value that says what the entry was made from; another one means that it is stale.

    Returns:
        ({name: memory-mapped read-only array}, {metadata}) as given to `build`; None where there is no such
            entry.
    """
    folder = pathlib.Path(folder)
    try:
        return _read(folder, source)
    except _DamagedError as error:
        _logger.warning("The cached data in %s is damaged and will be made again: %s", folder, error)
        return None


def _digest(manifest):
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read(folder, source):
    if not folder.exists():
        return None
    try:
        manifest = read_json(folder / _MANIFEST, "Delete it.", _FIELDS)
        if manifest["format"] != _FORMAT:
            return None
        if manifest.pop("sha256", None) != _digest(manifest):
            raise _DamagedError(f"{_MANIFEST} is not as it was written.")
        if manifest["source"] != source:
            return None
        arrays = {name: _read_array(folder, entry) for name, entry in manifest["arrays"].items()}
        return arrays, manifest["metadata"]
    except Exception as error:  # Of many kinds can come of a manifest or a header that was cut or altered.
        raise _DamagedError(str(error).partition("\n")[0]) from error


def _read_array(folder, entry):
    path = folder / pathlib.PurePath(entry["file"]).name
    if path.stat().st_size != entry["bytes"]:
        raise _DamagedError(f"{path.name} must have {entry['bytes']} bytes; got {path.stat().st_size}.")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise _DamagedError(f"{path.name} must be {entry['dtype']}{entry['shape']}; "
                            f"got {array.dtype}{list(array.shape)}.")
    if (got := sha256(array)) != entry["sha256"]:
        raise _DamagedError(f"{path.name} must have SHA-256 {entry['sha256']}; got {got}.")
    return array


def _is_good(folder, source):
    try:
        return _read(folder, source) is not None
    except _DamagedError:
        return False


@contextlib.contextmanager
def build(folder, source):
    """Builds an entry, and puts it in place when the `with` block ends without an error.

    Yields a folder to write `<name>.npy` files into, and a dict to put JSON metadata into. What was at
    `folder` is replaced if it is damaged or stale. Where several processes build one entry, the first one's
    stands.

    Args:
        folder: the entry's folder.
        source: see `read`.
    """
    folder = pathlib.Path(folder)
    with scratch(folder) as beside:
        fresh, metadata = beside / "new", {}
        fresh.mkdir()
        yield fresh, metadata
        arrays = {}
        for path in sorted(fresh.glob("*.npy")):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            arrays[path.stem] = {"file": path.name, "bytes": path.stat().st_size, "shape": list(array.shape),
                                 "dtype": str(array.dtype), "sha256": sha256(array)}
        manifest = {"format": _FORMAT, "source": source, "metadata": metadata, "arrays": arrays}
        (fresh / _MANIFEST).write_text(json.dumps(manifest | {"sha256": _digest(manifest)}, indent=1))
        if not _is_good(folder, source):
            with contextlib.suppress(FileNotFoundError):
                folder.rename(beside / "old")
            try:
                fresh.rename(folder)
            except OSError:
                if not _is_good(folder, source):  # Else another process was faster.
                    raise


def remove_abandoned(parent):
    """Removes the folders of :func:`scratch` that killed processes left in ``parent``, a Path."""
    for path in parent.glob(".*.scratch"):
        with _locked(path) as is_ours:
            if is_ours:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def scratch(place):
    """A new folder beside ``place``, removed when the ``with`` block ends.

    It is locked while it is in use, and a lock ends with its process: so the folders that killed processes left beside
    ``place`` are known, and removed too.

    Raises:
        OSError: it cannot be made; the message names the setting.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise OSError(f"cache_dir (config.data.cache_dir; by default below XDG_CACHE_HOME or HOME), or data_dir, must "
                      f"be a folder that can be written; got {place.parent}: {error.strerror}.") from error
    remove_abandoned(place.parent)
    with contextlib.ExitStack() as held:
        path = None
        # Another process may take a folder for abandoned, and remove it, before this one has locked it.
        while path is None or not path.exists():
            path = pathlib.Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".scratch", dir=place.parent))
            held.enter_context(_locked(path))
        held.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


@contextlib.contextmanager
def _locked(folder):
    """Tries to lock a folder while the ``with`` block lasts; yields whether it is."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = True
    except OSError:  # In use; or a file system without such locks, where nothing is known and nothing removed.
        is_ours = False
    try:
        yield is_ours
    finally:
        os.close(descriptor)
