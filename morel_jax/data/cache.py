"""Decoded data sets on disk: .npy files, memory-mapped at the next start, with hashes that prove them.

An entry is a folder with the images and labels of both splits, `entry.json`, and the checksums of these files
(`morel_jax.manifest`). It is built under another name beside its place and renamed, so a reader sees a whole entry or
none. The cache may be deleted at any time.
"""
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from morel_jax import manifest
from morel_jax.data.dataset import Dataset, Split
from morel_jax.files import read_json

_FORMAT = 3  # Counts changes in what entries hold; those of another format have other names.
_RECORD = "entry.json"
_logger = logging.getLogger(__name__)


def default_dir() -> Path:
    """`$XDG_CACHE_HOME/morel_jax`, by default `~/.cache/morel_jax`.

    The variable is taken only where it is absolute, as the XDG base directory specification has it.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):
        return Path(home) / "morel_jax"
    try:
        return Path.home() / ".cache" / "morel_jax"
    except RuntimeError:
        raise ValueError("cache_dir (config.data.cache_dir) must be given where HOME is not set and no home folder is "
                         "known.") from None


def place(cache_dir: Path, name: str, source: Any) -> Path:
    """The folder of an entry.

    Args:
        source: JSON value that says what the entry is made from; another one gives another folder.

    Returns:
        Its path, whose name tells people the data set, and programs the source.
    """
    digest = hashlib.sha256(json.dumps([_FORMAT, name, source], sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir / "decoded" / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{digest}"


def load(name: str, folder: Path, fill: Callable[[Path], Sequence[str]]) -> Dataset:
    """Reads an entry; makes it first where there is none, or a damaged one, which is reported.

    Size and hash of every file are checked (0.1 to 0.5 s for CIFAR-10's 184 MB). Where several processes make one
    entry, the first one's stands.

    Args:
        folder: what `place` returned.
        fill: function of an empty folder that writes `train_images.npy`, `train_labels.npy`, `test_images.npy` and
            `test_labels.npy` into it, and returns the names of the classes.

    Returns:
        Dataset with memory-mapped, read-only arrays.

    Raises:
        TypeError, ValueError: what `fill` wrote makes no Dataset; the cache stays as it was.
        OSError: the cache cannot be written; names the setting. Or what was written cannot be read.
    """
    found, fault = _read(name, folder)
    if fault:
        _logger.warning("The cached data in %s is damaged and will be made again: %s", folder, fault)
    if found is None:
        with scratch(folder) as fresh:
            names = list(fill(fresh))
            (fresh / _RECORD).write_text(json.dumps({"class_names": names}))
            manifest.write(fresh)
            _dataset(name, fresh)
            _put(name, fresh, folder)
        found, fault = _read(name, folder)
    if found is None:
        raise OSError(f"The cache entry {folder} could not be read back after it was written: {fault or 'it is gone.'}")
    return found


def _dataset(name: str, folder: Path) -> Dataset:
    names = tuple(read_json(folder / _RECORD, "Delete it.", {"class_names": list})["class_names"])
    arrays = [np.load(folder / f"{split}_{part}.npy", mmap_mode="r", allow_pickle=False)
              for split in ("train", "test") for part in ("images", "labels")]
    return Dataset(name, Split(*arrays[:2]), Split(*arrays[2:]), len(names), names)


def _read(name: str, folder: Path) -> tuple[Dataset | None, str | None]:
    """(Dataset, None), or (None, what is wrong with the entry), or (None, None) where there is none."""
    if not folder.exists():
        return None, None
    if fault := manifest.problem(folder):
        return None, f"{fault}."
    try:
        return _dataset(name, folder), None
    except Exception as error:  # Of many kinds can come of what was altered and hashed again.
        return None, str(error).partition("\n")[0] or type(error).__name__


def _put(name: str, fresh: Path, folder: Path) -> None:
    """Gives a new entry its place, unless another process's entry has it."""
    if _read(name, folder)[0] is not None:
        return
    damaged = fresh.with_suffix(".old.scratch")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(damaged)
    shutil.rmtree(damaged, ignore_errors=True)  # Before the new one is there, as nobody looks for it afterwards.
    try:
        fresh.rename(folder)
    except OSError:
        if _read(name, folder)[0] is None:  # Else another process was faster.
            raise


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A new folder beside ``place``, removed when the ``with`` block ends.

    It is locked while it is in use, and a lock ends with its process. So the folders that killed processes left beside
    ``place`` are known, and removed too.

    Raises:
        OSError: it cannot be made; the message names the setting.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise OSError("cache_dir (config.data.cache_dir; by default below XDG_CACHE_HOME or HOME) must be a folder "
                      f"that can be written; got {place.parent}: {error.strerror}.") from error
    for left in place.parent.glob(".*.scratch"):
        with _locked(left, fcntl.LOCK_NB) as is_ours:
            if is_ours:
                shutil.rmtree(left, ignore_errors=True)
    with contextlib.ExitStack() as held:
        path: Path | None = None
        # Another process may take a folder for abandoned, and remove it, before this one has locked it.
        while path is None or not path.exists():
            path = place.with_name(f".{place.name}.{secrets.token_hex(4)}.scratch")
            path.mkdir()
            held.enter_context(_locked(path))
        held.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


@contextlib.contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[bool]:
    """Locks a folder while the ``with`` block lasts; yields whether it could.

    It cannot where the folder is in use (with ``LOCK_NB``; else this waits) or gone, or on a file system without such
    locks. There nothing is known of other processes, so nothing of theirs is removed.
    """
    with contextlib.ExitStack() as held:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
            locked = True
        except OSError:
            locked = False
        yield locked


def write_images(path: Path, images: Iterable[UInt8[np.ndarray, "h w c"]], count: int, where: str,
                 ) -> UInt8[np.memmap, "count h w c"]:
    """Writes images into a .npy file one at a time, through a memory map: Tiny-ImageNet takes 1.2 GB.

    Args:
        images: `count` of them.
        where: what an error names.

    Returns:
        The writable memory map.

    Raises:
        ValueError: there is no image, or there are several shapes.
    """
    array = None
    for row, image in zip(range(count), images, strict=True):
        if array is None:
            array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *image.shape))
        if image.shape != array.shape[1:]:
            raise ValueError(f"All images must have one shape; in {where}, row {row} has {image.shape}, "
                             f"row 0 {array.shape[1:]}.")
        array[row] = image
    if array is None:
        raise ValueError(f"{where} must have at least one example; it is empty.")
    array.flush()
    return array
