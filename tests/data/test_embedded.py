import hashlib
import importlib.resources
import lzma
import pathlib
import time

import numpy as np
import pytest

from morel_jax import data
from morel_jax.data import embedded
from morel_jax.data.readers import fashion_mnist

from . import embed_fashion_mnist, made

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
FILE_SHA256 = "42d6085c951896990bccc89552ddb080bd1f98e717c03befa34a3f75cfedc387"
CONTENT_SHA256 = "a1fe9160dc1284a79ba36707f9a90486e7b2e4a87d4eaa5bb21b19a176604f0a"


def packed():
    return importlib.resources.files("morel_jax.data").joinpath(embedded.FILE).read_bytes()


def test_the_file_is_the_one_we_published():
    assert len(packed()) < 5_000_000
    assert hashlib.sha256(packed()).hexdigest() == FILE_SHA256
    assert hashlib.sha256(lzma.decompress(packed())).hexdigest() == CONTENT_SHA256


def test_it_has_a_licence():
    licence = importlib.resources.files("morel_jax.data").joinpath("fashion_mnist_small.LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in licence
    assert "The above copyright notice and this permission notice shall be included" in licence


def test_load():
    dataset = data.load("fashion_mnist_small")
    assert dataset.train.images.shape == (10_000, 28, 28, 1)
    assert dataset.test.images.shape == (2_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [1000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [200] * 10)
    assert dataset.class_names[9] == "Ankle boot"
    assert not any(array.flags.writeable for split in (dataset.train, dataset.test)
                   for array in (split.images, split.labels))
    assert data.load("fashion_mnist_small", test_split="test") is dataset
    with pytest.raises(ValueError, match="splits train, test; got test_split='validation'"):
        data.load("fashion_mnist_small", test_split="validation")


def test_loads_quickly():
    start = time.monotonic()
    embedded.unpack(packed())
    assert time.monotonic() - start < 5.0  # 0.3 s; the margin is for a busy machine.


def test_damage_is_noticed():
    damaged = bytearray(packed())
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(lzma.LZMAError):
        embedded.unpack(bytes(damaged))


@pytest.fixture
def source(tmp_path, monkeypatch):
    arrays = made.fashion(tmp_path, np.random.default_rng(0), per_class=4)
    for split, archives in fashion_mnist.ARCHIVES.items():
        monkeypatch.setitem(fashion_mnist.ARCHIVES, split, made.trusted(archives, tmp_path))
    return tmp_path, arrays


def test_script_takes_the_same_rows_of_every_class(source, capsys):
    folder, arrays = source
    digest = embed_fashion_mnist.embed(folder, folder / "small.xz", train_per_class=3, test_per_class=2)
    content = (folder / "small.xz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest
    splits = embedded.unpack(content)
    for split, (images, labels), per_class in zip(splits, arrays.values(), (3, 2), strict=True):
        np.testing.assert_array_equal(np.bincount(split.labels), [per_class] * 10)
        rows = [np.flatnonzero((images == image).all((1, 2, 3))).item() for image in split.images]
        assert rows == sorted(set(rows))
        np.testing.assert_array_equal(split.labels, labels[rows])


def test_script_makes_the_same_bytes_again(source, monkeypatch):
    folder, _ = source
    monkeypatch.setattr(embed_fashion_mnist.embed, "__defaults__", (2, 2))
    for name in ("one.xz", "two.xz"):
        embed_fashion_mnist.main([f"--source={folder}", f"--output={folder / name}"])
    assert (folder / "one.xz").read_bytes() == (folder / "two.xz").read_bytes()


def test_choice_is_pinned():
    labels = np.repeat(np.arange(2, dtype=np.uint8), 10)
    assert embed_fashion_mnist.choose(labels, 3, "train").tolist() == [0, 1, 4, 11, 14, 17]
    assert embed_fashion_mnist.choose(labels, 3, "test").tolist() != [0, 1, 4, 11, 14, 17]


def test_script_refuses_another_source(source):
    folder, _ = source
    file = "t10k-labels-idx1-ubyte.gz"
    (folder / file).write_bytes((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(ValueError, match=f"{file} must have SHA-256 .*or content with SHA-256 [0-9a-f]*.; got "):
        embed_fashion_mnist.embed(folder, folder / "small.xz", 2, 2)
    assert not (folder / "small.xz").exists()


def test_script_refuses_too_few_rows(source):
    with pytest.raises(ValueError, match="Class 0 must have at least 5 train rows; got 4"):
        embed_fashion_mnist.embed(source[0], source[0] / "small.xz", 5, 2)


@pytest.mark.slow
def test_remade_from_the_original_images(tmp_path):
    assert DEBIAN.is_dir(), f"{DEBIAN} is missing; install Debian's package dataset-fashion-mnist."
    embed_fashion_mnist.embed(DEBIAN, tmp_path / "small.xz")
    content = (tmp_path / "small.xz").read_bytes()
    assert hashlib.sha256(lzma.decompress(content)).hexdigest() == CONTENT_SHA256
    assert content == packed()  # liblzma promises no fixed bytes; should this line fail alone, that is why.
