"""CIFAR-10 and CIFAR-100 in their binary versions (https://www.cs.toronto.edu/~kriz/cifar.html), which hold no pickles.

A record is one byte per label, then 1,024 bytes each of red, green and blue, row by row.
"""
import functools
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from morel_jax.data.archives import Archive, Content, Reader

_SHAPE = (32, 32, 3)


def _read(paths: Sequence[Path], folder: str, splits: Mapping[str, Sequence[str]], names: str,
          num_labels: int) -> Content:
    """From the names of the folder, files and file of class names, and the labels per record, of which the last
    counts."""
    contents = {}
    wanted = {f"{folder}/{file}": file for files in [*splits.values(), [names]] for file in files}
    with tarfile.open(paths[0], "r:gz") as archive:
        for member in archive:
            if member.name in wanted and (file := archive.extractfile(member)):
                contents[wanted[member.name]] = file.read()

    def rows(files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        joined = b"".join(contents[file] for file in files)
        records = np.frombuffer(joined, np.uint8).reshape(-1, num_labels + 3 * 32 * 32)
        return records[:, num_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, num_labels - 1]

    return contents[names].decode().split(), {split: rows(files) for split, files in splits.items()}


READERS = (
    Reader("cifar10", (Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),), _SHAPE, 50_000, 10_000, 10,
        functools.partial(_read, folder="cifar-10-batches-bin", names="batches.meta.txt", num_labels=1, splits={
            "train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]})),
    # The fine label of 100 classes follows the coarse one of 20.
    Reader("cifar100", (Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),), _SHAPE, 50_000, 10_000, 100,
        functools.partial(_read, folder="cifar-100-binary", names="fine_label_names.txt", num_labels=2, splits={
            "train": ["train.bin"], "test": ["test.bin"]})),
)
