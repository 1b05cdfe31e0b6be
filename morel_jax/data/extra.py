"""Images in addition to a data set's own, such as generated ones: .npz files in parts, read from disk row by row."""
import glob
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from morel_jax.data import cache
from morel_jax.data.dataset import Split
from morel_jax.data.mapped import Joined, map_array, map_member, member_header, read_member
from morel_jax.files import local_path, reading, sync

_FAULT = "is not a whole .npz file"
Images = UInt8[np.ndarray, "n h w c"]


def load_extra(paths: str | os.PathLike, like: Split, num_classes: int,
               cache_dir: str | os.PathLike | None = None) -> Split:
    """The images of ``like``, followed by those of .npz files with ``image`` uint8[n, h, w, c] and ``label`` int[n].

    The generated images of Gowal et al. (arXiv:2110.09468) and Wang et al. (arXiv:2302.04638) are published in that
    layout, the latter's 20 and 50 million in parts. Labels may also be in a file of their own, as
    :func:`morel_jax.evaluation.write_pseudo_labels` writes it.

    No image is held in memory. What ``numpy.savez`` wrote is memory-mapped where it stands; what
    ``numpy.savez_compressed`` wrote is decoded once, into ``cache_dir``.

    Args:
        paths: a file, a folder of .npz files, a pattern such as ``50m_part*.npz``, or several of these with commas
            between. The files of a folder or pattern are taken in the order of their names.
        like: the data set's own images.
        cache_dir: as in :func:`morel_jax.data.load`.

    Returns:
        A Split whose images are a :class:`~morel_jax.data.mapped.Joined`, which gives rows as an array does.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other arrays, shapes or labels, or a file given twice.
    """
    parts = [_load_part(path, like.images.shape[1:], num_classes, cache_dir) for path in find_parts(paths)]
    images: Any = Joined([like.images, *(images for images, _ in parts)])
    return Split(images, np.concatenate([like.labels, *(labels for _, labels in parts)], dtype=np.int32))


def find_parts(paths: str | os.PathLike) -> list[Path]:
    """The .npz files that ``config.data.extra`` names; arguments and errors as in :func:`load_extra`."""
    found: list[Path] = []
    for entry in os.fspath(paths).split(","):
        path = local_path(entry.strip(), "config.data.extra")
        if path.is_dir():
            parts = sorted(path.glob("*.npz"))
        else:
            parts = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(path))
                                                         if name.endswith(".npz"))
        if not parts:
            raise FileNotFoundError("config.data.extra must be an .npz file with image and label, a folder or pattern "
                                    f"of such files, or several with commas between; got {str(path)!r}.")
        found += parts
    if twice := {path for path in found if found.count(path) > 1}:
        raise ValueError(f"config.data.extra must name each file once; got {min(twice)} twice.")
    return found


def label_file(path: Path) -> Path:
    """Where the labels of ``path`` are, if they are not in it."""
    return path.with_name(f"{path.stem}.labels")


def all_files(paths: str | os.PathLike) -> list[Path]:
    """The files that :func:`load_extra` reads, those of labels included; arguments and errors as there."""
    return [file for path in find_parts(paths) for file in (path, label_file(path)) if file.is_file()]


def map_images(path: Path, cache_dir: str | os.PathLike | None = None) -> Images:
    """``image`` of an .npz file, memory-mapped; a compressed one is decoded into ``cache_dir`` first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no .npz file with ``image`` uint8[n, h, w, c], n at least 1.
    """
    with reading(path, _FAULT, into_memory=False), zipfile.ZipFile(path) as archive:
        if "image.npy" not in archive.namelist():
            raise ValueError(f"{path} must hold an array image; got {', '.join(_names(archive))[:200]}.")
        # Type and shape are checked before anything is read, as a header may claim anything.
        shape, dtype, _ = member_header(archive, "image.npy")
        if dtype != np.uint8 or len(shape) != 4 or 0 in shape:
            raise ValueError(f"image in {path} must be uint8[n, height, width, channels]; got {dtype}{list(shape)}.")
        images = map_member(archive, "image.npy")
    return _decoded(path, cache_dir) if images is None else images


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist()]


def _load_part(path: Path, image_shape: tuple[int, ...], num_classes: int,
               cache_dir: str | os.PathLike | None) -> tuple[Images, Int[np.ndarray, " n"]]:
    where = path
    with reading(path, _FAULT, into_memory=False), zipfile.ZipFile(path) as archive:
        names = _names(archive)
        if "label" not in names:
            where = label_file(path)
        if "image" not in names or ("label" not in names and not where.is_file()):
            raise ValueError(f"{path} must hold arrays image and label; got {', '.join(names)[:200]}.")
        shape, dtype, _ = member_header(archive, "image.npy")
        if dtype != np.uint8 or len(shape) != 4 or shape[1:] != image_shape:
            raise ValueError(f"image in {path} must be uint8[n, {', '.join(map(str, image_shape))}]; "
                             f"got {dtype}{list(shape)}.")
    labels = _labels(where, shape[0], num_classes)
    return map_images(path, cache_dir), labels


def _labels(path: Path, count: int, num_classes: int) -> Int[np.ndarray, " n"]:
    with reading(path, _FAULT, into_memory=False), zipfile.ZipFile(path) as archive:
        if "label.npy" not in archive.namelist():
            raise ValueError(f"{path} must hold an array label; got {', '.join(_names(archive))[:200]}.")
        shape, dtype, _ = member_header(archive, "label.npy")
        if shape != (count,) or not np.issubdtype(dtype, np.integer):
            raise ValueError(f"label in {path} must be int[{count}]; got {dtype}{list(shape)}.")
        labels = read_member(archive, "label.npy")
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"label in {path} must be in 0 .. {num_classes - 1}, at least one of them; got "
                         + (f"{labels.min()} .. {labels.max()}." if len(labels) else "none."))
    return labels


def _decoded(path: Path, cache_dir: str | os.PathLike | None) -> np.ndarray:
    """``image`` of a compressed file from the cache, where it is put first if it is not there."""
    stat, folder = path.stat(), local_path(cache_dir or cache.default_dir(), "cache_dir").resolve()
    entry = cache.place(folder, path.stem, ["image", str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    place = entry.with_name(f"{entry.name}.npy")
    if not place.exists():
        with cache.scratch(place) as scratch:
            fresh = scratch / "image.npy"
            with reading(path, _FAULT, into_memory=False), zipfile.ZipFile(path) as archive, \
                    archive.open("image.npy") as member, open(fresh, "wb") as file:
                shutil.copyfileobj(member, file, 2**20)  # zipfile compares the checksum at its end.
            sync(fresh)
            fresh.replace(place)
    return map_array(place)
