"""Decoded data sets on disk: .npy files, memory-mapped, with hashes that show damage.

An entry is a folder with the images and labels of both splits, `entry.json`, and the checksums of these files
(`morel_jax.manifest`). It is built under another name and then renamed, so a reader sees a whole entry or none. The
cache may be deleted at any time.
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
from morel_jax.files import read_json, user_cache

_FORMAT = 3  # Counts changes in the content of entries; it is part of their names.
_RECORD = "entry.json"
_DIGEST = "source.sha256"
_logger = logging.getLogger(__name__)


def default_dir() -> Path:
    """:func:`~morel_jax.files.user_cache`.

    Raises:
        ValueError: no home folder is known.
    """
    cache = user_cache()
    if cache is None:
        raise ValueError("cache_dir (config.data.cache_dir) must be given where HOME is not set and no home folder is "
                         "known.")
    return cache


def place(cache_dir: Path, name: str, source: Any) -> Path:
    """The folder of an entry, named after the data set and ``source``, a JSON value that says what it is made from."""
    digest = hashlib.sha256(json.dumps([_FORMAT, name, source], sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir / "decoded" / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{digest}"


def load(name: str, folder: Path, fill: Callable[[Path], Sequence[str]]) -> Dataset:
    """Reads an entry, with memory-mapped, read-only arrays; makes it first if it is missing or (reported) damaged.

    Size and hash of every file are checked (0.1 to 0.5 s for CIFAR-10's 184 MB). If several processes make one entry,
    the first one's is kept.

    Args:
        folder: what `place` returned.
        fill: function of an empty folder that writes `train_images.npy`, `train_labels.npy`, `test_images.npy` and
            `test_labels.npy` into it, and returns the names of the classes.

    Raises:
        TypeError, ValueError: what `fill` wrote is no Dataset; the cache stays as it was.
        OSError: the cache cannot be written, and the message names the setting; or what was written cannot be read.
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
    digest = folder / _DIGEST
    return Dataset(name, Split(*arrays[:2]), Split(*arrays[2:]), len(names), names,
                   digest.read_text() if digest.exists() else "")


def _read(name: str, folder: Path) -> tuple[Dataset | None, str | None]:
    """(Dataset, None), or (None, what is wrong with the entry), or (None, None) where there is none."""
    if not folder.exists():
        return None, None
    if fault := manifest.problem(folder):
        return None, f"{fault}."
    try:
        return _dataset(name, folder), None
    except Exception as error:  # Of many kinds, where files were altered and hashed again.
        return None, str(error).partition("\n")[0] or type(error).__name__


def _put(name: str, fresh: Path, folder: Path) -> None:
    """Moves a new entry to its place, unless another process's entry is there."""
    if _read(name, folder)[0] is not None:
        return
    damaged = fresh.with_suffix(".old.scratch")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(damaged)
    shutil.rmtree(damaged, ignore_errors=True)  # Before the new one is in place, as nobody looks for it afterwards.
    try:
        fresh.rename(folder)
    except OSError:
        if _read(name, folder)[0] is None:  # Else another process was faster.
            raise


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A new folder beside ``place``, removed when the ``with`` block ends.

    It is locked while it is in use, and a lock ends with its process. So folders that killed processes left beside
    ``place`` are recognised, and removed too.

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
    """Locks a folder during the ``with`` block; yields whether it could.

    It cannot if the folder is in use (with ``LOCK_NB``; otherwise this waits) or gone, or on a file system without such
    locks, where nothing is known of other processes, so nothing of theirs is removed.
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


def write_digest(folder: Path, sha256: str) -> None:
    """Notes in an entry under way what becomes :attr:`~morel_jax.data.Dataset.sha256`."""
    (folder / _DIGEST).write_text(sha256)


def write_images(path: Path, images: Iterable[UInt8[np.ndarray, "h w c"]], count: int, where: str,
                 ) -> UInt8[np.memmap, "count h w c"]:
    """Writes ``count`` images into a .npy file through a memory map, which it returns: Tiny-ImageNet takes 1.2 GB.

    Raises:
        ValueError: there is no image, or there are several shapes; the message names ``where``.
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
