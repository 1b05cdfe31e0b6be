"""Fashion-MNIST's facts and its IDX files; NumPy only.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv:1708.07747; MIT licence, Zalando SE.
"""

import math

import numpy as np

from morel_jax.data.archives import gunzip
from morel_jax.files import reading

# In the order of the labels; spelled as in TFDS.
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
               "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

# SHA-256 of the IDX files inside the gzip members. Debian's package `dataset-fashion-mnist` packs the same
# bytes under other gzip headers, so the checksums of the .gz files themselves would refuse it.
CONTENT_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def parse_idx(content, offset=0):
    """Reads one array of unsigned bytes in the IDX format (http://yann.lecun.com/exdb/mnist/).

    Args:
        content: bytes.
        offset: where the array's header starts.

    Returns:
        The array, uint8 and read-only, a view of `content`; and the offset of the byte after it.

    Raises:
        ValueError: no IDX header of unsigned bytes there, or the content ends early.
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


def format_idx(array):
    """The bytes that `parse_idx` reads back as `array` (uint8, any shape)."""
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def read_idx(path):
    """Returns the one array of a gzipped IDX file as uint8, read-only.

    Raises:
        ValueError: it is no such file, or damaged; names the file.
    """
    with reading(path, "is not a gzipped IDX file"):
        return parse_idx(gunzip(path))[0]
