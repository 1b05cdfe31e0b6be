"""Own arrays in a file: ``npz:PATH``, with ``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras has them."""
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from morel_jax.data import cache
from morel_jax.data.mapped import map_member, member_header, read_member
from morel_jax.files import reading

_FAULT = "is not a whole .npz file"


def _headers(archive: zipfile.ZipFile, path: Path, test_split: str) -> dict[str, tuple[tuple[int, int, int], int]]:
    """{"train" or the test split: ((h, w, c), images)}, checked before anything is read, as headers may claim anything.

    Raises:
        ValueError: an array is missing, or of another type or shape.
    """
    there = [name.removesuffix(".npy") for name in archive.namelist()]
    wanted = [f"{part}_{split}" for split in ("train", test_split) for part in "xy"]
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(f"{path} must hold arrays {', '.join(wanted)}; it lacks {', '.join(missing)} and has "
                         f"{', '.join(there)[:200] or 'none'}.")
    found = {}
    for split in ("train", test_split):
        shape, dtype, _ = member_header(archive, f"x_{split}.npy")
        full = (*shape, 1) if len(shape) == 3 else shape
        if dtype != np.uint8 or len(full) != 4 or 0 in full or full[3] not in (1, 3):
            hint = ""
            if np.issubdtype(dtype, np.floating):
                hint = " Images in [0, 1] become that by (255 * x).round().astype('uint8')."
            elif len(shape) == 4 and shape[1] in (1, 3):
                hint = " Channels that come first are put last by x.transpose(0, 2, 3, 1)."
            raise ValueError(f"x_{split} in {path} must be uint8[n, height, width], or uint8[n, height, width, "
                             f"channels] with 1 or 3 channels; got {dtype}{list(shape)}.{hint}")
        labels, dtype, _ = member_header(archive, f"y_{split}.npy")
        if labels not in ((full[0],), (full[0], 1)) or not np.issubdtype(dtype, np.integer):
            raise ValueError(f"y_{split} in {path} must be int[{full[0]}], a class number per image; got "
                             f"{dtype}{list(labels)}.")
        found[split] = full[1:], full[0]
    if found["train"][0] != found[test_split][0]:
        raise ValueError(f"x_train and x_{test_split} in {path} must have one image shape; got {found['train'][0]} and "
                         f"{found[test_split][0]}.")
    return found


def _labels(archive: zipfile.ZipFile, path: Path, test_split: str) -> tuple[dict[str, np.ndarray], int]:
    """({split: int32[n]}, number of classes).

    Raises:
        ValueError: a label is negative, or a class up to the largest label has no training image.
    """
    labels = {split: read_member(archive, f"y_{split}.npy").reshape(-1) for split in ("train", test_split)}
    every = np.unique(np.concatenate(list(labels.values())))
    absent = np.setdiff1d(np.arange(every[-1] + 1), labels["train"])[:1]
    if every[0] < 0 or len(absent):
        raise ValueError(f"y_train in {path} must have all classes from 0 to the largest label, {every[-1]}; "
                         + (f"got {every[0]}." if every[0] < 0 else f"class {absent[0]} has no training image."))
    return {split: own.astype(np.int32) for split, own in labels.items()}, len(every)


def fingerprint(path: Path, test_split: str | None) -> list:
    """A JSON value that changes when the file does: its place, size and time.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config.data.name must be npz:PATH of a file; there is no file {path.absolute()}.")
    return [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]


def decode(path: Path, output: Path, test_split: str | None = None) -> list[str]:
    """Writes the arrays into .npy files; returns the classes' names, which are their numbers.

    Args:
        path: the file.
        output: folder for the four .npy files, and for the file's SHA-256.
        test_split: "val" for ``x_val`` and ``y_val``; None: ``x_test`` and ``y_test``.

    Raises:
        ValueError: it is no .npz file, an array is missing, of another type or shape, or a class has no image.
    """
    test_split = test_split or "test"
    with reading(path, _FAULT, into_memory=False), zipfile.ZipFile(path) as archive:
        shapes = _headers(archive, path, test_split)
        labels, classes = _labels(archive, path, test_split)
        for split, purpose in (("train", "train"), (test_split, "test")):
            images = map_member(archive, f"x_{split}.npy")  # None: compressed.
            images = read_member(archive, f"x_{split}.npy") if images is None else images
            np.save(output / f"{purpose}_images.npy",
                    np.ascontiguousarray(images).reshape(len(images), *shapes[split][0]))
            np.save(output / f"{purpose}_labels.npy", labels[split])
    with open(path, "rb") as file:
        cache.write_digest(output, hashlib.file_digest(file, "sha256").hexdigest())
    return list(map(str, range(classes)))


def sizes(path: Path, test_split: str | None = None) -> tuple[int, int, tuple[int, int, int], int]:
    """(training images, test images, (h, w, c), classes), without the images; arguments and errors as in `decode`."""
    test_split = test_split or "test"
    with reading(path, _FAULT, into_memory=False), zipfile.ZipFile(path) as archive:
        found = _headers(archive, path, test_split)
        return found["train"][1], found[test_split][1], found["train"][0], _labels(archive, path, test_split)[1]
