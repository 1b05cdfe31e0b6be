"""The images that come with the package, for tests, examples and machines without network."""
import functools
import lzma
from pathlib import Path

import numpy as np

from morel_jax.data.dataset import Dataset, Split
from morel_jax.data.readers import fashion_mnist
from morel_jax.files import reading

NAME = "fashion_mnist_small"
FILE = "fashion_mnist_small.xz"


def unpack(packed: bytes) -> tuple[Split, Split]:
    """(train, test), read-only, of the embedded file's content: xz around four IDX arrays, images and labels of each.

    Raises:
        lzma.LZMAError: the bytes are damaged; xz checks its own SHA-256.
    """
    content, offset, arrays = lzma.decompress(packed), 0, []
    for _ in range(4):
        array, offset = fashion_mnist.parse_idx(content, offset)
        arrays.append(array)
    train_labels, test_labels = (labels.astype(np.int32) for labels in arrays[1::2])
    for labels in (train_labels, test_labels):
        labels.flags.writeable = False
    return Split(arrays[0], train_labels), Split(arrays[2], test_labels)


@functools.cache
def load() -> Dataset:
    """The embedded part of Fashion-MNIST, read-only and the same object at every call.

    10,000 training and 2,000 test images, uint8[n, 28, 28, 1], 1,000 and 200 of each of the 10 classes, chosen from
    Fashion-MNIST's own training and test split and left in its order.

    Source: Fashion-MNIST, arXiv:1708.07747; MIT licence, in `fashion_mnist_small.LICENSE` beside the images.
    """
    path = Path(__file__).with_name(FILE)
    with reading(path, "is not the file that this package brings; install it again"):
        train, test = unpack(path.read_bytes())
    return Dataset(NAME, train, test, len(fashion_mnist.CLASS_NAMES), fashion_mnist.CLASS_NAMES)
