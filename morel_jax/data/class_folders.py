"""Own images in class folders: ``folder:PATH``, with ``PATH/train/<class>/...`` and ``PATH/test/<class>/...``, or
``PATH/<class>/...``."""
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from morel_jax.data import cache
from morel_jax.data.subset import stratified_rows
from morel_jax.files import reading

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Names of the folder to evaluate on, the first that is there.
TEST_SPLITS = ("test", "validation", "val", "valid")
# Where there is no such folder: one image in so many is kept for testing, and a class needs as many.
_ONE_IN = 5
_MOST_PIXELS = 2**26  # Of one image; a few bytes can claim more than memory holds.
# Pillow's names of what has 8 bits per channel.
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_FAULT = "is not an image that can be read"


@dataclasses.dataclass(frozen=True)
class _Listing:
    """The files of a data set and their classes; nothing of them is read.

    Attributes:
        names: of the classes, in the order of the labels.
        splits: {"train" or "test": (files, labels)}.
    """
    names: tuple[str, ...]
    splits: dict[str, tuple[list[Path], Int32[np.ndarray, " n"]]]

    @property
    def files(self) -> list[Path]:
        return [file for files, _ in self.splits.values() for file in files]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _is_hidden(path))


def _classes(root: Path) -> dict[str, list[Path]]:
    """{class: its files at any depth, by name}.

    Raises:
        ValueError: there are fewer than two classes, one is empty, or holds something that is no image.
    """
    found = {}
    for folder in _folders(root):
        files = sorted(path for path in folder.rglob("*") if path.is_file()
                       and not any(map(_is_hidden, (path, *path.relative_to(folder).parents[:-1]))))
        for path in files:
            if path.suffix.lower() not in SUFFIXES:
                raise ValueError(f"{path} must be an image, whose name ends in one of {', '.join(SUFFIXES)}, or lie "
                                 "outside the class folders.")
        if not files:
            raise ValueError(f"The class folder {folder} must hold at least one image; it is empty.")
        found[folder.name] = files
    if len(found) < 2:
        raise ValueError(f"{root} must hold a folder of images for each of at least two classes; it has "
                         f"{', '.join(found) or 'none'}.")
    return found


def _joined(classes: dict[str, list[Path]]) -> tuple[list[Path], Int32[np.ndarray, " n"]]:
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in classes.values()])
    return [path for files in classes.values() for path in files], labels


def _list(root: Path, test_split: str | None) -> _Listing:
    """The files of both splits.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folders are not laid out as this module's first line says.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"config.data.name must be folder:PATH of a folder with images; there is no folder "
                                f"{root.absolute()}.")
    there = [name for name in ((test_split,) if test_split else TEST_SPLITS) if (root / name).is_dir()]
    has_train = (root / "train").is_dir()
    if has_train != bool(there) or (test_split and not there):
        lacks = test_split or "test" if has_train or not there else "train"
        raise ValueError(f"{root} must have the folders train and {test_split or 'test'}, or class folders alone and "
                         f"no config.data.test_split; it has no folder {lacks}.")
    if there:
        train, test = _classes(root / "train"), _classes(root / there[0])
        if lonely := sorted(train.keys() ^ test.keys()):
            raise ValueError(f"{root}/train and {root}/{there[0]} must have the same class folders; only one of them "
                             f"has {lonely[0]}.")
        return _Listing(tuple(train), {"train": _joined(train), "test": _joined(test)})
    classes = _classes(root)
    for name, files in classes.items():
        if len(files) < _ONE_IN:
            raise ValueError(f"The class folder {root / name} must hold at least {_ONE_IN} images, of which one is "
                             f"kept for testing; it has {len(files)}. Or give {root} the folders train and test.")
    files, labels = _joined(classes)
    held_out = stratified_rows(labels, len(files) // _ONE_IN)
    rows = {"train": np.delete(np.arange(len(files)), held_out), "test": held_out}
    return _Listing(tuple(classes), {split: ([files[row] for row in own], labels[own]) for split, own in rows.items()})


def _swaps_sides(image: Any) -> bool:
    """Whether EXIF turns the image by a quarter (values 5 to 8 of the tag Orientation, 274)."""
    return image.getexif().get(274, 1) >= 5


def _shape(files: Sequence[Path], image_size: int) -> tuple[int, int, int]:
    """(h, w, c) of all images, from the files' headers.

    Raises:
        ValueError: a file is no image, too large, has other than 8 bits per channel, or another size where none is
            asked for; the message names it.
    """
    import PIL.Image  # Here: a start from the cache does not need it.

    first: tuple[int, ...] = ()
    channels = 1
    for path in files:
        with reading(path, _FAULT), PIL.Image.open(path) as image:
            height, width = image.size if _swaps_sides(image) else reversed(image.size)
            if image.mode not in (*_GREY, *_COLOUR):
                raise ValueError(f"{path} must have 8 bits per channel; Pillow calls its form {image.mode}.")
            if height * width > _MOST_PIXELS:
                raise ValueError(f"{path} must have at most {_MOST_PIXELS} pixels; it has {height} x {width}.")
            channels = 3 if image.mode in _COLOUR else channels
        first = first or (height, width)
        if (height, width) != first and not image_size:
            raise ValueError("All images must have one size, or config.data.image_size must give the one to which they "
                             f"are brought; {path} has {height} x {width}, {files[0]} {first[0]} x {first[1]}.")
    height, width = (image_size, image_size) if image_size else first
    return height, width, channels


def _image(path: Path, content: bytes, shape: tuple[int, int, int], image_size: int) -> UInt8[np.ndarray, "h w c"]:
    import PIL.Image
    import PIL.ImageOps

    with reading(path, _FAULT), PIL.Image.open(io.BytesIO(content)) as opened:
        image = PIL.ImageOps.exif_transpose(opened)
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise ValueError(f"{path} must have no transparent pixel; put it on a background first.")
        image = image.convert("L" if shape[2] == 1 else "RGB")
        if image_size:
            image = PIL.ImageOps.fit(image, (image_size, image_size), PIL.Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(shape)


def fingerprint(root: Path, test_split: str | None) -> list:
    """A JSON value that changes when the files do: their names, sizes and times. Errors as in :func:`decode`."""
    files = [(path.relative_to(root).as_posix(), path.stat()) for path in _list(root, test_split).files]
    return [str(root.resolve()), [[name, stat.st_size, stat.st_mtime_ns] for name, stat in files]]


def decode(root: Path, output: Path, test_split: str | None = None, image_size: int = 0) -> list[str]:
    """Decodes both splits into .npy files; returns the classes' names.

    Classes are numbered by their folders' names in order, as by torchvision's ``ImageFolder``; rows are in the order of
    classes and files. Images are grey if all files are, and else have three channels. They are turned as EXIF says.

    Args:
        root: the folder.
        output: folder for the four .npy files, and for the SHA-256 of all files' names and content.
        test_split: name of the folder beside ``train`` to evaluate on; None: the first of ``TEST_SPLITS``. Without
            ``train``, a fifth of each class is kept for testing, in a fixed order that depends on no seed.
        image_size: the shorter side is brought to so many pixels (bilinear, with Pillow's averaging), and the square in
            the middle is taken; 0: all images must have one size.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folders are laid out in another way, a class is empty, or a file is no image, has transparent
            pixels, or another size; the message names it.
    """
    listing = _list(root, test_split)
    shape, digest = _shape(listing.files, image_size), hashlib.sha256()

    def images(files: Sequence[Path]) -> Iterator[np.ndarray]:
        for path in files:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\n{hashlib.sha256(content).hexdigest()}\n".encode())
            yield _image(path, content, shape, image_size)

    for split, (files, labels) in listing.splits.items():
        cache.write_images(output / f"{split}_images.npy", images(files), len(files), str(root))
        np.save(output / f"{split}_labels.npy", labels)
    cache.write_digest(output, digest.hexdigest())
    return list(listing.names)


def sizes(root: Path, test_split: str | None = None, image_size: int = 0) -> tuple[int, int, tuple[int, int, int], int]:
    """(training images, test images, (h, w, c), classes) by the files' headers; arguments and errors as in `decode`."""
    listing = _list(root, test_split)
    train, test = (len(files) for files, _ in listing.splits.values())
    return train, test, _shape(listing.files, image_size), len(listing.names)
