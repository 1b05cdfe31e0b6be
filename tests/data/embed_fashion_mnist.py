"""Remakes the embedded images: `python -m tests.data.embed_fashion_mnist --source=DIR --output=FILE`.

DIR holds Fashion-MNIST's four .gz files: `/usr/share/datasets/fashion-mnist` of Debian's package
`dataset-fashion-mnist`, or those from https://github.com/zalandoresearch/fashion-mnist. Both give the same
file.
"""

import argparse
import hashlib
import lzma

import numpy as np

from morel_jax.data import archives
from morel_jax.data.dataset import Split
from morel_jax.data.readers import fashion_mnist
from morel_jax.files import local_path, write_atomically
from tests.data import made

SEED = 0
TRAIN_PER_CLASS = 1000
TEST_PER_CLASS = 200


def choose(labels, per_class, purpose):
    """Chooses the same number of rows of every class.

    Rows are ranked by a hash of (SEED, purpose, row) and the first of each class are taken, so the choice
    does not hang on the stream of one version of a random generator.

    Args:
        labels: uint8[n].
        per_class: rows to take of each class that occurs.
        purpose: str; another one gives another choice.

    Returns:
        int64[classes * per_class], the chosen rows, ascending.

    Raises:
        ValueError: a class has fewer rows.
    """
    ranks = np.array([int.from_bytes(hashlib.sha256(f"{SEED}/{purpose}/{row}".encode()).digest()[:8], "big")
                      for row in range(len(labels))], np.uint64)
    rows = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise ValueError(f"Class {label} must have at least {per_class} {purpose} rows; "
                             f"got {len(members)}.")
        rows.append(members[np.argsort(ranks[members])[:per_class]])
    return np.sort(np.concatenate(rows))


def pack(train, test):
    """Packs two splits of at most 256 classes into the bytes that `embedded.unpack` reads.

    The form is xz around four IDX arrays: train images, train labels, test images, test labels. Plain LZMA
    beat the PNG and median predictors, deltas and a pixel-major order on these images.

    Args:
        train: Split.
        test: Split.

    Returns:
        bytes; a function of the splits' values and of liblzma's version, which makes no promise about the
        compressed form (the content is what `unpack` returns under every version).
    """
    arrays = (train.images, train.labels.astype(np.uint8), test.images, test.labels.astype(np.uint8))
    # A window as large as the content (9.4 MB); preset 9's 64 MB would only cost memory when unpacking.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]
    content = b"".join(map(made.idx, arrays))
    return lzma.compress(content, check=lzma.CHECK_SHA256, filters=filters)


def embed(source, output, train_per_class=TRAIN_PER_CLASS, test_per_class=TEST_PER_CLASS):
    """Writes the embedded file.

    Args:
        source: folder with the four .gz files.
        output: file to write.
        train_per_class, test_per_class: images to take of each class.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file is not the published one, or see `choose`; nothing is written then.
    """
    splits, source = [], local_path(source, "source")
    for purpose, per_class in (("train", train_per_class), ("test", test_per_class)):
        for archive in fashion_mnist.ARCHIVES[purpose]:
            archives.check(source / archive.file, archive)
        images, labels = (fashion_mnist.read_idx(source / archive.file) for archive in fashion_mnist.ARCHIVES[purpose])
        rows = choose(labels, per_class, purpose)
        splits.append(Split(images[rows][..., None], labels[rows].astype(np.int32)))
    packed = pack(*splits)
    write_atomically(local_path(output, "output"), packed)
    return hashlib.sha256(packed).hexdigest()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="folder with Fashion-MNIST's four .gz files")
    parser.add_argument("--output", required=True, help="file to write")
    arguments = parser.parse_args(argv)
    print(embed(arguments.source, arguments.output), arguments.output)


if __name__ == "__main__":
    main()
