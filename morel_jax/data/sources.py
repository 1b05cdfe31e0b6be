"""`load`: from the name of a data set to arrays, through official archives or TFDS and a cache of decoded arrays."""
import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morel_jax.data import archives, cache, class_folders, embedded, npz, prepared, readers
from morel_jax.data.dataset import Dataset, Split
from morel_jax.files import local_path

StrPath = str | os.PathLike
KNOWN = (embedded.NAME, *readers.BY_NAME)
_OWN: dict[str, Any] = {"folder": class_folders, "npz": npz}
_logger = logging.getLogger(__name__)


def own_place(name: str) -> tuple[str, Path] | None:
    """("folder" or "npz", path) of the name of a user's own images, such as "folder:/data/birds"; None for another.

    Raises:
        ValueError: no path on a mounted file system.
    """
    form, colon, path = name.partition(":")
    return (form, local_path(path, "config.data.name, after the colon,")) if colon and form in _OWN else None


def load(name: str, data_dir: StrPath | None = None, archive_dir: StrPath | None = None,
         cache_dir: StrPath | None = None, test_split: str | None = None, image_size: int = 0) -> Dataset:
    """Loads a data set of images and labels.

    `fashion_mnist_small` comes with this package. The modules of `morel_jax.data.readers` declare `fashion_mnist`,
    `cifar10`, `cifar100` and `tiny_imagenet`: archives, sizes and shapes. Any other data set is read from `data_dir`,
    where TFDS prepared it in ArrayRecord form.

    Archives are taken from `archive_dir`, or else downloaded to `cache_dir/downloads`, and must have their published
    SHA-256. Fashion-MNIST's may instead be recompressed, as in Debian's package `dataset-fashion-mnist`; then the
    SHA-256 of the content counts. Rows are in the archives' order (Tiny-ImageNet: of the zip file's listing).

    A data set that TFDS has prepared in `data_dir` is read as it is, and archives are ignored. Its rows are in stored
    order, or ordered by its text feature `id` where it has one. Nothing is written into `data_dir`.

    `folder:PATH` and `npz:PATH` are a user's own images, in class folders or in an .npz file; see
    :mod:`morel_jax.data.class_folders` and :mod:`morel_jax.data.npz`.

    JPEG pixels may differ by a level between versions of the decoder; everything else is the same everywhere.

    The decoded arrays are kept in `cache_dir/decoded` and memory-mapped from there. Their hashes are checked at every
    start; a damaged entry is reported and made again.

    Args:
        name: for prepared data sets also "name/config" and "name:version", as in TFDS.
        data_dir: folder of prepared data sets (`data_dir/name/[config/]version`), or one version's own folder.
        archive_dir: folder with archives under their published names.
        cache_dir: default `$XDG_CACHE_HOME/morel_jax`, or `~/.cache/morel_jax`.
        test_split: split to evaluate on; default `test`, or else `validation`.
        image_size: of `folder:PATH`: what the images are brought to; 0: they have one size.

    Returns:
        Images and labels, read-only and memory-mapped (the embedded one: in memory).

    Raises:
        ValueError: an unknown name, a wrong checksum, a missing split, or a prepared data set that is no image-label
            data set with one image shape or is not in ArrayRecord form.
        FileNotFoundError: an archive is neither in `archive_dir` nor reachable (detected within 15 s); or `data_dir`
            holds no such data set.
        NotADirectoryError: `archive_dir` is no folder.
    """
    if name == embedded.NAME:
        _check_split(name, "test", test_split)
        return embedded.load()
    cache_dir = local_path(cache_dir or cache.default_dir(), "cache_dir").resolve()
    if (own := own_place(name)) is not None:
        form, path = own
        options = _options(form, image_size)
        entry = cache.place(cache_dir, f"{form}-{path.name}", [_OWN[form].fingerprint(path, test_split), test_split,
                                                               options])
        return cache.load(f"{form}:{path.name}", entry, functools.partial(_OWN[form].decode, path,
                                                                          test_split=test_split, **options))
    folder = _prepared(name, data_dir)
    if folder is not None:
        source = [prepared.fingerprint(folder), test_split]
        fill: Callable[..., Sequence[str]] = functools.partial(prepared.decode, folder, test_split=test_split)
    else:
        reader = readers.BY_NAME[name]
        source = [archive.sha256 for archive in reader.archives]  # Which fix the arrays.
        _check_split(name, reader.test_split, test_split)
        fill = functools.partial(_decode, reader, cache_dir / "downloads" / name,
                                 None if archive_dir is None else local_path(archive_dir, "archive_dir"))
    return cache.load(name, cache.place(cache_dir, name, source), fill)


def blank(name: str, data_dir: StrPath | None = None, test_split: str | None = None, image_size: int = 0) -> Dataset:
    """A data set's shapes without its content, from its reader's declaration, TFDS's metadata or files' headers.

    Images and labels are all zero and take no memory; classes are named by their numbers. Arguments as for
    :func:`load`.

    Raises:
        ValueError: an unknown name, or a prepared data set that `load` would refuse or whose metadata do not give its
            images' shape.
        FileNotFoundError: `data_dir` holds no such data set, and no archives are known for it.
    """
    if name == embedded.NAME:
        like = embedded.load()
        train, test, shape, classes = len(like.train), len(like.test), like.image_shape, like.num_classes
    elif (own := own_place(name)) is not None:
        form, path = own
        train, test, shape, classes = _OWN[form].sizes(path, test_split, **_options(form, image_size))
        name = f"{form}:{path.name}"
    elif (folder := _prepared(name, data_dir)) is not None:
        train, test, shape, classes = prepared.sizes(folder, test_split)
    else:
        reader = readers.BY_NAME[name]
        train, test, shape, classes = reader.num_train, reader.num_test, reader.image_shape, reader.num_classes

    def split(count: int) -> Split:
        return Split(np.broadcast_to(np.uint8(0), (count, *shape)), np.broadcast_to(np.int32(0), (count,)))

    return Dataset(name, split(train), split(test), classes, tuple(map(str, range(classes))))


def _options(form: str, image_size: int) -> dict[str, int]:
    if image_size and form != "folder":
        raise ValueError(f"image_size must be 0 but for folder:PATH; got {image_size}.")
    return {"image_size": image_size} if form == "folder" else {}


def _prepared(name: str, data_dir: StrPath | None) -> Path | None:
    """The folder in which TFDS prepared a data set; None to use the archives of a known one."""
    folder = None if data_dir is None else prepared.find(name, data_dir)
    if folder is None and name not in readers.BY_NAME:
        if data_dir is None:
            raise ValueError(
                f"Unknown data set {name!r}; known are {', '.join(KNOWN)}, and folder:PATH and npz:PATH for your own. "
                "Any other image-label data set can be loaded once TFDS has prepared it with "
                "file_format='array_record': pass the folder as data_dir.")
        raise FileNotFoundError(
            f"data_dir {data_dir} holds no prepared data set {name!r}: looked for {data_dir}/{name}/[config/]version "
            f"with dataset_info.json in it. Prepare it there with TFDS and file_format='array_record'. "
            f"Known without that: {', '.join(KNOWN)}.")
    if folder is None and data_dir is not None:
        _logger.info("data_dir %s holds no prepared %s; its archives are used.", data_dir, name)
    return folder


def _check_split(name: str, there: str, wanted: str | None) -> None:
    if wanted not in (None, there):
        raise ValueError(f"{name} has the splits train, {there}; got test_split={wanted!r}.")


def _decode(reader: archives.Reader, downloads: Path, archive_dir: Path | None, output: Path) -> Sequence[str]:
    """Writes the arrays of a reader's archives into .npy files; returns the class names."""
    class_names, splits = reader.read(archives.obtain(reader.name, reader.archives, downloads, output, archive_dir))
    for split, (images, labels) in splits.items():
        cache.write_images(output / f"{split}_images.npy", images, len(labels), f"{reader.name} split {split!r}")
        np.save(output / f"{split}_labels.npy", labels.astype(np.int32))
    return class_names
