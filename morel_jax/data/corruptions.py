"""Common corruptions of test images, in the layout in which CIFAR-10-C is published.

A folder holds ``labels.npy``, int[5 n], and for each corruption ``<corruption>.npy``, uint8[5 n, h, w, c]: the n test
images at severity 1, then the same images at severity 2, and so on. Source: Hendrycks and Dietterich, arXiv:1903.12261.
"""
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, UInt8

from morel_jax import checks
from morel_jax.data.dataset import check_arrays
from morel_jax.data.mapped import map_array
from morel_jax.files import local_path, make_folder, sync

SEVERITIES = 5
# The published fifteen, in the paper's order: noise, blur, weather, digital.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression")
# These draw from generators of their own, and take a seed; all others draw from NumPy's global one.
_SEEDED = ("impulse_noise", "glass_blur")
_SMALLEST_SIDE = 32  # Of images that the library takes.


def load_labels(folder: str | os.PathLike) -> Int32[np.ndarray, " m"]:
    """``labels.npy`` of a folder of corrupted images: the labels of all severities, one after another.

    Raises:
        NotADirectoryError, FileNotFoundError: no such folder, or no such file in it.
        ValueError: no integers, or a number of them that is no multiple of 5.
    """
    folder = local_path(folder, "corruptions_dir")
    if not folder.is_dir():
        raise NotADirectoryError(f"corruptions_dir must be a folder in the layout of CIFAR-10-C; got {folder}.")
    labels = map_array(folder / "labels.npy")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels) or len(labels) % SEVERITIES:
        raise ValueError(f"{folder / 'labels.npy'} must be int[{SEVERITIES} n], the labels of {SEVERITIES} severities "
                         f"one after another; got {labels.dtype}{list(labels.shape)}.")
    return np.asarray(labels, np.int32)


def load_corruption(folder: str | os.PathLike, name: str, count: int) -> UInt8[np.ndarray, "count h w c"]:
    """The images of one corruption, memory-mapped and read-only.

    Args:
        count: that there must be, over all severities.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    path = local_path(folder, "corruptions_dir") / f"{name}.npy"
    images = map_array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count or 0 in images.shape:
        raise ValueError(f"{path} must be uint8[{count}, height, width, channels], as labels.npy has {count} labels; "
                         f"got {images.dtype}{list(images.shape)}.")
    return images


def write_corruptions(images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"], folder: str | os.PathLike, *,
                      corruptions: Sequence[str] = CORRUPTIONS, seed: int = 0,
                      on_written: Callable[[Path], None] | None = None) -> None:
    """Corrupts images with the package ``imagecorruptions-imaug``, and writes them in the layout of CIFAR-10-C.

    That package has the strengths of ImageNet-C. CIFAR-10-C was made with weaker ones, so accuracies on the two do not
    compare. It takes RGB images of at least 32 x 32 pixels. Smaller images are extended by their edge pixels and cut
    back. Of grey ones the channel is repeated and the green one of the result kept: noise has its full strength,
    which the mean of three draws would not have.

    Corruptions that the folder has already are not computed again. A file is there whole or not at all.

    Args:
        folder: made if it is not there.
        corruptions: names, of :data:`CORRUPTIONS` or others that the package knows.
        seed: in 0 .. 2**32 - 1; an image's random draws depend on it, the corruption's name, the severity and the
            image's place alone.
        on_written: called with the path of each corruption that is complete.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: images or labels that cannot be used, an unknown corruption, or a folder of other images.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    seed, folder = checks.seed(seed), local_path(folder, "folder")
    check_arrays(images, labels)
    if images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise ValueError("images must be uint8[n, h, w, 1 or 3] to be corrupted; got "
                         f"{images.dtype}{list(images.shape)}.")
    with checks.needing_extra("corruptions", "computing corruptions"):
        import imagecorruptions  # Brings OpenCV and Numba, which nothing else here needs.
    if unknown := set(corruptions) - set(imagecorruptions.get_corruption_names("all")):
        raise ValueError(f"corruptions must be among {', '.join(imagecorruptions.get_corruption_names('all'))}; got "
                         f"{', '.join(sorted(unknown))}.")
    make_folder(folder)
    _write_labels(folder, np.tile(labels.astype(np.int32), SEVERITIES))
    for name in corruptions:
        path = folder / f"{name}.npy"
        if not path.exists():
            corrupted = _corrupted(imagecorruptions.corrupt, images, name, seed)
            _write_images(path, corrupted, (SEVERITIES * len(images), *images.shape[1:]))
        elif load_corruption(folder, name, SEVERITIES * len(images)).shape[1:] != images.shape[1:]:
            raise ValueError(f"{path} must hold corrupted images of shape {images.shape[1:]}; it was made from others. "
                             "Give another folder.")
        if on_written is not None:
            on_written(path)


def _write_labels(folder: Path, labels: Int32[np.ndarray, " m"]) -> None:
    path = folder / "labels.npy"
    if not path.exists():
        np.save(temporary := path.with_suffix(".tmp.npy"), labels)
        _put(temporary, path)
    elif not np.array_equal(load_labels(folder), labels):
        raise ValueError(f"{path} must hold the labels of these images for each severity; it holds others. Give "
                         "another folder.")


def _write_images(path: Path, images: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    temporary = path.with_suffix(".tmp.npy")
    array = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
    for row, image in enumerate(images):
        array[row] = image
    array.flush()
    _put(temporary, path)


def _put(temporary: Path, path: Path) -> None:
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def _corrupted(corrupt: Callable, images: UInt8[np.ndarray, "n h w c"], name: str, seed: int) -> Iterator[np.ndarray]:
    """Each image at severity 1, then each at severity 2, and so on."""
    height, width, channels = images.shape[1:]
    missing = [max(0, _SMALLEST_SIDE - side) for side in (height, width)]
    edges = [(pixels // 2, pixels - pixels // 2) for pixels in missing] + [(0, 0)]
    rows, columns = (slice(before, before + side) for (before, _), side in zip(edges, (height, width), strict=False))
    purpose = int.from_bytes(name.encode(), "little")
    before_all = np.random.get_state()  # noqa: NPY002 The library draws from it.
    try:
        for severity in range(1, SEVERITIES + 1):
            for place, image in enumerate(images):
                drawn = int(np.random.SeedSequence([seed, purpose, severity, place]).generate_state(1)[0])
                np.random.seed(drawn)  # noqa: NPY002
                wide = np.pad(np.broadcast_to(image, (height, width, 3)), edges, mode="edge")
                found = corrupt(wide, severity=severity, corruption_name=name,
                                **({"seed": drawn} if name in _SEEDED else {}))[rows, columns]
                yield found if channels == 3 else found[..., 1:2]
    finally:
        np.random.set_state(before_all)  # noqa: NPY002
