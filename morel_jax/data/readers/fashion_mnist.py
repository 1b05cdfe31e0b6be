"""Fashion-MNIST in its four gzipped IDX files.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv:1708.07747; MIT licence, Zalando SE.
"""
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from morel_jax.data.archives import Archive, Content, Reader, gunzip
from morel_jax.files import reading

# In the order of the labels; spelled as in TFDS.
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
               "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# Radii of threat models by norm: 0.1 in Linf is the field's own. In L2 there is none: 1.5 is about as strong to the
# quickstart's network.
RADII = {"linf": 0.1, "l2": 1.5}

_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# Images and labels of each split. Debian's package `dataset-fashion-mnist` has the same bytes under other gzip headers,
# so an archive may also be recognised by its content.
ARCHIVES = {
    "train": (
        Archive(f"{_ADDRESS}train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        Archive(f"{_ADDRESS}train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9")),
    "test": (
        Archive(f"{_ADDRESS}t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        Archive(f"{_ADDRESS}t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34")),
}


def parse_idx(content: bytes, offset: int = 0) -> tuple[UInt8[np.ndarray, "..."], int]:
    """Reads one array of unsigned bytes in the IDX format (http://yann.lecun.com/exdb/mnist/), from ``offset`` on.

    Returns:
        (array, end): a read-only view of `content`; the offset of the byte after it.

    Raises:
        ValueError: there is no IDX header of unsigned bytes, or the content ends early.
    """
    magic = content[offset:offset + 4]
    if len(magic) < 4 or magic[:3] != b"\0\0\x08":
        raise ValueError(f"An IDX array of unsigned bytes must start with 00 00 08; got {magic.hex(' ')}.")
    start = offset + 4 + 4 * magic[3]
    shape = tuple(np.frombuffer(content[offset + 4:start], ">u4").tolist())
    end = start + math.prod(shape)
    if len(content) < end:
        raise ValueError(f"The IDX array of shape {shape} must end at byte {end}; "
                         f"the content has {len(content)}.")
    return np.frombuffer(content, np.uint8, end - start, start).reshape(shape), end


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of a gzipped IDX file, read-only.

    Raises:
        ValueError: it is no such file, or damaged; names the file.
    """
    with reading(path, "is not a gzipped IDX file"):
        return parse_idx(gunzip(path))[0]


def _read(paths: Sequence[Path]) -> Content:
    arrays = [read_idx(path) for path in paths]
    return CLASS_NAMES, {split: (arrays[2 * i][..., None], arrays[2 * i + 1]) for i, split in enumerate(ARCHIVES)}


READERS = (Reader("fashion_mnist", (*ARCHIVES["train"], *ARCHIVES["test"]), (28, 28, 1), 60_000, 10_000,
                  len(CLASS_NAMES), _read),)
