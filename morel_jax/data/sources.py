"""`load`: from the name of a data set to arrays, through archives, TFDS and a cache of decoded arrays."""

import contextlib
import hashlib
import importlib
import io
import json
import logging
import pathlib
import re
import sys

import numpy as np

from morel_jax.data import archives, cache, embedded, prepared
from morel_jax.data.dataset import Dataset, Split
from morel_jax.files import local_path

# Data sets made from archives: module and class of the builder, imported only when one has to be made.
_BUILDERS = {
    "cifar10": ("tfds_builders", "Cifar10"),
    "cifar100": ("tfds_builders", "Cifar100"),
    "fashion_mnist": ("tfds_builders", "FashionMnist"),
    "tiny_imagenet": ("tiny_imagenet", "TinyImagenet"),
}
KNOWN = (embedded.NAME, *_BUILDERS)
# Of each: training and test images, shape of one, classes.
_SIZES = {
    embedded.NAME: (10_000, 2_000, (28, 28, 1), 10),
    "cifar10": (50_000, 10_000, (32, 32, 3), 10),
    "cifar100": (50_000, 10_000, (32, 32, 3), 100),
    "fashion_mnist": (60_000, 10_000, (28, 28, 1), 10),
    "tiny_imagenet": (100_000, 10_000, (64, 64, 3), 200),
}
_REVISION = 1  # Counts changes in what prepared files decode to; an entry of another revision is not used.
_logger = logging.getLogger(__name__)


def load(name, data_dir=None, archive_dir=None, cache_dir=None, test_split=None):
    """Loads a data set of images and labels.

    | name | from | train | test | image |
    |---|---|---|---|---|
    | `fashion_mnist_small` | this package | 10,000 | 2,000 | 28x28x1 |
    | `fashion_mnist` | four .gz files, 31 MB | 60,000 | 10,000 | 28x28x1 |
    | `cifar10`, `cifar100` | one .tar.gz file, 170 MB | 50,000 | 10,000 | 32x32x3 |
    | `tiny_imagenet` | one .zip file, 248 MB | 100,000 | 10,000 (its `val`) | 64x64x3 |
    | any other | `data_dir`, where TFDS prepared it in ArrayRecord form | | | |

    Archives are taken from `archive_dir`, or downloaded; TFDS prepares them in `data_dir`, and keeps
    downloads in `data_dir/downloads`. Every archive must have its published SHA-256 (as recorded by TFDS;
    Tiny-ImageNet's in `tiny_imagenet.tsv`). Fashion-MNIST's may instead have been packed again, as in
    Debian's package `dataset-fashion-mnist`: what counts then is the SHA-256 of the content. A data set that
    is already prepared in `data_dir` is read as it is, and no archive is looked at.

    Rows are in the archives' order (Tiny-ImageNet: of the zip file's listing). A data set prepared by others
    is read in stored order, or ordered by its text feature `id` where it has one. JPEG pixels may differ by a
    level between versions of Pillow or OpenCV; everything else is the same everywhere.

    The decoded arrays are kept in `cache_dir/decoded` with their SHA-256, which is checked at every start;
    they are memory-mapped from there. A damaged entry is reported and made again.

    Args:
        name: see the table; of prepared data sets also "name/config" and "name:version", as in TFDS.
        data_dir: folder of prepared data sets (`data_dir/name/[config/]version`), or one version's own
            folder. Default: `cache_dir/tensorflow_datasets`.
        archive_dir: folder with archives under their published names.
        cache_dir: default `$XDG_CACHE_HOME/morel_jax`, or `~/.cache/morel_jax`.
        test_split: split to judge on; default `test`, or else `validation`.

    Returns:
        Dataset, uint8 images and int32 labels, read-only and memory-mapped (the embedded one: in memory).

    Raises:
        ValueError: unknown name; a wrong checksum; a prepared data set that is no image-label data set with
            one image shape, lacks a split or is not in ArrayRecord form.
        FileNotFoundError: an archive is neither in `archive_dir` nor reachable (found out within 15 s); or
            `data_dir` holds no such data set.
        NotADirectoryError: `archive_dir` is no folder.
    """
    if name == embedded.NAME:
        if test_split not in (None, "test"):
            raise ValueError(f"{name} has the splits train, test; got test_split={test_split!r}.")
        return embedded.load()
    cache_dir = local_path(cache_dir or cache.default_dir(), "cache_dir").resolve()
    if data_dir is None:
        _check_known(name)
        # The archives' checksums fix the arrays, so a name finds them again, with or without prepared files.
        root, folder = cache_dir / "tensorflow_datasets", None
        source = {"name": name, "revision": _REVISION, "test_split": test_split}
    else:
        root = local_path(data_dir, "data_dir").resolve()
        folder = prepared.find(name, root) or _prepare(name, root, archive_dir)
        source = {**prepared.fingerprint(folder), "revision": _REVISION, "test_split": test_split}
    entry = _entry(name, cache_dir, source)
    dataset = _cached(name, entry, source)
    if dataset is None:
        cache.remove_abandoned(root)  # A kill may have come right after TFDS's files were put in place.
        folder = folder or prepared.find(name, root) or _prepare(name, root, archive_dir)
        with cache.build(entry, source) as (output, metadata):
            metadata.update(prepared.decode(folder, output, test_split))
        dataset = _cached(name, entry, source)
    if dataset is None:
        raise OSError(f"The cache entry {entry} could not be read back after it was written.")
    return dataset


def blank(name, data_dir=None, test_split=None):
    """A data set's shapes without its content, from what is known of it before anything is read.

    Args:
        name, data_dir, test_split: as for :func:`load`. What TFDS prepared in `data_dir` is described by its own
            metadata.

    Returns:
        Dataset whose images and labels are all zero and take no memory; its classes are named by their numbers.

    Raises:
        ValueError: unknown name, or a prepared data set that `load` would refuse, or whose metadata do not give its
            images' shape.
    """
    folder = None if data_dir is None else prepared.find(name, data_dir)
    if folder is None:
        _check_known(name)
        train, test, shape, classes = _SIZES[name]
    else:
        train, test, shape, classes = prepared.sizes(folder, test_split)

    def split(count):
        return Split(np.broadcast_to(np.uint8(0), (count, *shape)), np.broadcast_to(np.int32(0), (count,)))

    return Dataset(name, split(train), split(test), classes, tuple(map(str, range(classes))))


def _check_known(name):
    if name not in KNOWN:
        raise ValueError(
            f"Unknown data set {name!r}; known are {', '.join(KNOWN)}. Any other image-label data set can be "
            "loaded once TFDS has prepared it with file_format='array_record': pass the folder as data_dir.")


def _entry(name, cache_dir, source):
    """The folder of a cache entry; its name tells people the data set, and programs the source."""
    digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir / "decoded" / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{digest}"


def _cached(name, entry, source):
    found = cache.read(entry, source)
    if found is None:
        return None
    arrays, metadata = found
    names = tuple(metadata["class_names"])
    splits = (Split(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
    return Dataset(name, *splits, len(names), names)


def _prepare(name, root, archive_dir):
    """Has TFDS prepare a known data set in `root` from its archives; returns the version's folder."""
    if name not in _BUILDERS:
        raise FileNotFoundError(
            f"data_dir {root} holds no prepared data set {name!r}: looked for {root}/{name}/[config/]version "
            f"with dataset_info.json in it. Prepare it there with TFDS and file_format='array_record'. "
            f"Known without that: {', '.join(KNOWN)}.")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    module, cls = _BUILDERS[name]
    cls = getattr(importlib.import_module(f"{__package__}.{module}"), cls)
    expected = cls.checksums()
    archive_dir = None if archive_dir is None else local_path(archive_dir, "archive_dir")
    found = archives.find(cls.URLS, archive_dir)
    for url, path in found.items():
        archives.check(path, expected[url].checksum, cls.CONTENT_SHA256.get(path.name))
        # A repacked archive has its own checksum; the content is right, so TFDS shall expect that one.
        expected[url] = checksums.compute_url_info(path)
    missing = [url for url in cls.URLS if url not in found]
    if missing:
        archives.require_reachable(name, missing)
    _logger.info("Preparing %s in %s; this happens once.", name, root)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    place = root / name / str(cls.VERSION)
    # TFDS would leave its own scratch folder for ever when it is killed.
    with cache.scratch(root / name) as beside, contextlib.redirect_stdout(io.StringIO()):  # TFDS prints where it works.
        builder = cls(data_dir=beside, archive_checksums=expected)
        builder.download_and_prepare(
            download_dir=root / "downloads", file_format="array_record",
            download_config=tfds.download.DownloadConfig(manual_dir=archive_dir, try_download_gcs=False))
        place.parent.mkdir(exist_ok=True)
        try:
            pathlib.Path(builder.data_dir).rename(place)
        except OSError:
            if not prepared.find(name, root):  # Else another process was faster.
                raise
    return place
