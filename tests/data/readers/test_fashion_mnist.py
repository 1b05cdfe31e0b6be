import gzip
import os

import numpy as np
import pytest

from morel_jax import data
from morel_jax.data.readers import fashion_mnist
from tests.data import made


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2), (0, 28, 28)])
def test_idx_round_trip(shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    content = made.idx(array)
    parsed, end = fashion_mnist.parse_idx(b"before" + content + b"after", 6)
    assert end == 6 + len(content)
    np.testing.assert_array_equal(parsed, array)
    (tmp_path / "array.gz").write_bytes(gzip.compress(content))
    np.testing.assert_array_equal(fashion_mnist.read_idx(tmp_path / "array.gz"), array)


def test_idx_header_is_the_published_one():
    # The first bytes of train-images-idx3-ubyte: magic 2051, then 60000, 28 and 28, big-endian.
    content = made.idx(np.zeros((60000, 28, 28), np.uint8))
    assert content[:16] == bytes.fromhex("00000803 0000ea60 0000001c 0000001c")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "must start with 00 00 08"),
    (b"\0\0\x0d\x01\0\0\0\1", "got 00 00 0d 01"),  # Floats.
    (b"\0\0\x08\x01\0\0\0\5abcd", r"shape \(5,\) must end at byte 13; the content has 12"),
])
def test_idx_refuses(content, message):
    with pytest.raises(ValueError, match=message):
        fashion_mnist.parse_idx(content)


def check(dataset, arrays):
    for split in ("train", "test"):
        found = getattr(dataset, split)
        np.testing.assert_array_equal(found.images, arrays[split][0])
        np.testing.assert_array_equal(found.labels, arrays[split][1])
    assert dataset.class_names == fashion_mnist.CLASS_NAMES


def test_load_by_checksum_of_the_content(tmp_path, monkeypatch):
    arrays = made.fashion(tmp_path, np.random.default_rng(2))
    made.trust(monkeypatch, "fashion_mnist", tmp_path)
    check(data.load("fashion_mnist", archive_dir=tmp_path, cache_dir=tmp_path / "cache"), arrays)


@pytest.mark.slow
def test_debians_archives(tmp_path):
    debian = "/usr/share/datasets/fashion-mnist"
    assert os.path.isdir(debian), f"{debian} is missing; install Debian's package dataset-fashion-mnist."
    dataset = data.load("fashion_mnist", archive_dir=debian, cache_dir=tmp_path)
    blank = data.blank("fashion_mnist")
    assert dataset.train.images.shape == blank.train.images.shape
    assert dataset.test.images.shape == blank.test.images.shape
    arrays = {}
    for split, archives in fashion_mnist.ARCHIVES.items():
        images, labels = (fashion_mnist.read_idx(f"{debian}/{archive.file}") for archive in archives)
        arrays[split] = images[..., None], labels
    check(dataset, arrays)
