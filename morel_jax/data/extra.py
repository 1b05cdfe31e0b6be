"""Images in addition to a data set's own, such as synthetic ones."""
import math
import os
import zipfile

import numpy as np

from morel_jax.data.dataset import Split
from morel_jax.files import local_path, reading

# Images compress less than a hundredfold. Labels may compress more, but up to 64 MiB that does not matter.
_DENSEST, _SMALL = 100, 2**26


def load_extra(path: str | os.PathLike, like: Split, num_classes: int) -> Split:
    """The images of ``like``, followed by those of an ``.npz`` file with ``image`` uint8[n, h, w, c], ``label`` int[n].

    The generated images of Gowal et al. (arXiv:2110.09468) are published in that layout.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other arrays, shapes or labels.
    """
    path = local_path(path, "config.data.extra")
    if not path.is_file():
        raise FileNotFoundError(f"config.data.extra must be an .npz file with image and label; got {str(path)!r}.")
    with reading(path, "is not a whole .npz file"), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if not {"image", "label"} <= set(names):
            raise ValueError(f"{path} must hold arrays image and label; got {', '.join(names)[:200]}.")
        # Types and shapes are checked before any array takes memory, as a header may claim anything.
        shape, dtype = _header(archive, "image.npy")
        if dtype != np.uint8 or len(shape) != 4 or shape[1:] != like.images.shape[1:]:
            raise ValueError(f"image in {path} must be uint8[n, {', '.join(map(str, like.images.shape[1:]))}]; "
                             f"got {dtype}{list(shape)}.")
        count, (shape, dtype) = shape[0], _header(archive, "label.npy")
        if shape != (count,) or not np.issubdtype(dtype, np.integer):
            raise ValueError(f"label in {path} must be int[{count}]; got {dtype}{list(shape)}.")
        images, labels = (_array(archive, name) for name in ("image.npy", "label.npy"))
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"label in {path} must be in 0 .. {num_classes - 1}, at least one of them; got "
                         + (f"{labels.min()} .. {labels.max()}." if len(labels) else "none."))
    return Split(np.concatenate([like.images, images]), np.concatenate([like.labels, labels.astype(np.int32)]))


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of an array in an .npz file, if the archive can hold that much."""
    entry, size = archive.getinfo(name), os.stat(str(archive.filename)).st_size
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        claimed = file.tell() + math.prod(shape) * dtype.itemsize
    if min((*shape, 0)) < 0 or claimed != entry.file_size:
        raise ValueError(f"{name} claims {claimed} bytes and has {entry.file_size}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    if entry.compress_size > size or claimed > max(_SMALL, _DENSEST * entry.compress_size):
        raise ValueError(f"{name} claims {claimed} bytes of a file of {size}")
    return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
