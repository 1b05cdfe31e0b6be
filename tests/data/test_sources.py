import importlib
import json
import logging
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from morel_jax import data
from morel_jax.data import archives, fashion_mnist, sources, tfds_builders

from . import made

NO_TFDS = """
import sys, time
from morel_jax import data
start = time.monotonic()
dataset = data.load(sys.argv[1], cache_dir=sys.argv[2])
print(time.monotonic() - start, len(dataset.train), "tensorflow_datasets" in sys.modules)
"""


@pytest.fixture
def folders(tmp_path):
    """archive_dir and cache_dir."""
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives", tmp_path / "cache"


@pytest.fixture
def cifar10(folders, monkeypatch):
    arrays = made.cifar10(folders[0], np.random.default_rng(0))
    made.trust(monkeypatch, tfds_builders.Cifar10, folders[0])
    return arrays


def check(dataset, arrays):
    """Every pixel and label, in order."""
    for split, (images, labels) in ((dataset.train, arrays["train"]), (dataset.test, list(arrays.values())[1])):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
        assert isinstance(split.images, np.memmap)
        assert not split.images.flags.writeable


def entry(cache_dir):
    (folder,) = (cache_dir / "decoded").iterdir()
    return folder


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_cifar10(folders, cifar10, capfd):
    for folder in ("tensorflow_datasets", "decoded"):  # What a killed start left.
        (folders[1] / folder / ".cifar10.abc.scratch" / "cifar10").mkdir(parents=True)
    dataset = data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])
    check(dataset, cifar10)
    assert dataset.class_names == ("airplane", "automobile", "bird", "cat", "deer",
                                   "dog", "frog", "horse", "ship", "truck")
    assert capfd.readouterr().out == ""
    assert [path.name for path in (folders[1] / "tensorflow_datasets").iterdir() if path.name != "downloads"] == [
        "cifar10"]
    assert entry(folders[1]).name.startswith("cifar10-")


def test_cifar100_takes_the_fine_labels(folders, monkeypatch):
    arrays = made.cifar100(folders[0], np.random.default_rng(1))
    made.trust(monkeypatch, tfds_builders.Cifar100, folders[0])
    dataset = data.load("cifar100", archive_dir=folders[0], cache_dir=folders[1])
    check(dataset, arrays)
    assert dataset.class_names == tuple(made.FINE)


def test_fashion_mnist_by_checksum_of_the_content(folders, monkeypatch):
    arrays, contents = made.fashion(folders[0], np.random.default_rng(2))
    monkeypatch.setattr(tfds_builders.FashionMnist, "CONTENT_SHA256", contents)
    dataset = data.load("fashion_mnist", archive_dir=str(folders[0]), cache_dir=str(folders[1]))
    check(dataset, arrays)
    assert dataset.class_names == fashion_mnist.CLASS_NAMES


def test_published_checksums_are_known():
    # From the recorded checksums of tensorflow-datasets 4.9.10.
    cifar = {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
             "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"}
    infos = {**tfds_builders.Cifar10.checksums(), **tfds_builders.Cifar100.checksums()}
    assert {info.filename: info.checksum for info in infos.values()} == cifar
    fashion = {info.filename for info in tfds_builders.FashionMnist.checksums().values()}
    assert fashion == set(fashion_mnist.CONTENT_SHA256)
    for builder in (tfds_builders.Cifar10, tfds_builders.Cifar100, tfds_builders.FashionMnist):
        import tensorflow_datasets as tfds
        assert builder.VERSION == tfds.builder_cls(builder.name).VERSION


def test_wrong_checksum(folders):
    (folders[0] / "cifar-10-binary.tar.gz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz must have SHA-256 c4a38c50.*; got d9298a10"):
        data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])


def test_download(folders, cifar10, monkeypatch, tmp_path):
    with made.serve(folders[0]) as address:
        monkeypatch.setattr(tfds_builders.Cifar10, "URLS", (f"{address}/cifar-10-binary.tar.gz",))
        made.trust(monkeypatch, tfds_builders.Cifar10, folders[0])
        check(data.load("cifar10", data_dir=tmp_path / "tfds", cache_dir=folders[1]), cifar10)
    (archive,) = (tmp_path / "tfds" / "downloads" / "cifar10").glob("*.tar.gz")
    assert archive.read_bytes() == (folders[0] / "cifar-10-binary.tar.gz").read_bytes()


def test_offline(folders, monkeypatch):
    url = f"http://127.0.0.1:{closed_port()}/cifar-10-binary.tar.gz"
    monkeypatch.setattr(tfds_builders.Cifar10, "URLS", (url,))
    monkeypatch.setattr(tfds_builders.Cifar10, "checksums", classmethod(lambda cls: {}))
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary.tar.gz  from") as error:
        data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])
    assert time.monotonic() - start < 15
    assert url in str(error.value)
    assert "pass that folder as archive_dir" in str(error.value)


def test_only_missing_archives_are_asked_for(folders, monkeypatch):
    _, contents = made.fashion(folders[0], np.random.default_rng(2))
    monkeypatch.setattr(tfds_builders.FashionMnist, "CONTENT_SHA256", contents)
    (folders[0] / "t10k-labels-idx1-ubyte.gz").unlink()
    asked = []
    monkeypatch.setattr(archives, "require_reachable", lambda name, urls: asked.append(urls) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.load("fashion_mnist", archive_dir=folders[0], cache_dir=folders[1])
    assert [[archives.file_name(url) for url in urls] for urls in asked] == [["t10k-labels-idx1-ubyte.gz"]]


@pytest.mark.parametrize("argument", ["data_dir", "archive_dir", "cache_dir"])
def test_paths_of_the_user(argument, tmp_path, monkeypatch):
    options = {"cache_dir": tmp_path} | {argument: "gs://bucket/data"}
    with pytest.raises(ValueError, match=rf"{argument} must be a path .*got 'gs://bucket/data'"):
        data.load("cifar10", **options)
    assert list(tmp_path.iterdir()) == []


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match=r"'cifar11'; known are fashion_mnist_small, cifar10, .*pass the folder as "
                                         "data_dir"):
        data.load("cifar11", cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no prepared data set 'cifar11': looked for .*Known"):
        data.load("cifar11", data_dir=tmp_path, cache_dir=tmp_path)


def test_cache_hit_needs_neither_archive_nor_tfds(folders, cifar10):
    data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])
    (folders[0] / "cifar-10-binary.tar.gz").unlink()
    check(data.load("cifar10", cache_dir=folders[1]), cifar10)
    output = subprocess.run([sys.executable, "-c", NO_TFDS, "cifar10", str(folders[1])],
                            check=True, capture_output=True, text=True).stdout.split()
    assert output[1:] == ["35", "False"]


def test_order_is_the_same_every_time(folders, cifar10, tmp_path):
    manifests = []
    for place in ("one", "two"):
        data.load("cifar10", archive_dir=folders[0], cache_dir=tmp_path / place)
        manifests.append(json.loads((entry(tmp_path / place) / "manifest.json").read_text())["arrays"])
    assert manifests[0] == manifests[1]


def test_damaged_cache_is_reported_and_made_again(folders, cifar10, caplog):
    data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])
    path = entry(folders[1]) / "test_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for damaged, message in ((content[:-1], "bytes; got"), (content, "SHA-256")):
        path.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "morel_jax.data.cache"):
            check(data.load("cifar10", cache_dir=folders[1]), cifar10)
        (record,) = [record for record in caplog.records if record.name == "morel_jax.data.cache"]
        assert "is damaged and will be made again" in record.getMessage()
        assert message in record.getMessage()


def test_data_dir_is_prepared_and_then_read(folders, cifar10, tmp_path):
    dataset = data.load("cifar10", data_dir=tmp_path / "tfds", archive_dir=folders[0], cache_dir=folders[1])
    check(dataset, cifar10)
    (folders[0] / "cifar-10-binary.tar.gz").unlink()
    for data_dir in (tmp_path / "tfds", tmp_path / "tfds" / "cifar10" / "3.0.2"):
        check(data.load("cifar10", data_dir=data_dir, cache_dir=folders[1]), cifar10)
    assert len(list((folders[1] / "decoded").iterdir())) == 1


def test_default_cache_dir(folders, cifar10, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data.load("cifar10", archive_dir=folders[0])
    assert entry(tmp_path / "xdg" / "morel_jax").name.startswith("cifar10-")


@pytest.mark.parametrize("name", sources.KNOWN)
def test_blank_has_the_declared_shapes(name, tmp_path):
    blank = data.blank(name)
    if name == "fashion_mnist_small":
        declared = data.load(name)
        shape, classes = declared.image_shape, declared.num_classes
        assert (len(blank.train), len(blank.test)) == (len(declared.train), len(declared.test))
    else:
        module, builder = sources._BUILDERS[name]
        builder = getattr(importlib.import_module(f"morel_jax.data.{module}"), builder)
        features = builder(data_dir=tmp_path, archive_checksums={}).info.features
        shape, classes = features["image"].shape, features["label"].num_classes
    assert (blank.image_shape, blank.num_classes) == (shape, classes)
    assert blank.test.images.strides == (0, 0, 0, 0)


def test_blank_has_the_published_numbers_of_images():
    numbers = {name: (len(data.blank(name).train), len(data.blank(name).test)) for name in sources.KNOWN}
    assert numbers == {"fashion_mnist_small": (10_000, 2_000), "fashion_mnist": (60_000, 10_000),
                       "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "tiny_imagenet": (100_000, 10_000)}


def test_blank_of_an_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="Unknown data set 'imagenette'"):
        data.blank("imagenette")
    with pytest.raises(ValueError, match="Unknown data set 'imagenette'"):
        data.blank("imagenette", data_dir=tmp_path)


def test_importing_the_package_imports_no_tfds():
    code = "import sys, morel_jax.data; print('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                          env=os.environ).stdout == "False\n"
    assert set(sources.KNOWN) == {"fashion_mnist_small", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet"}


@pytest.mark.slow
def test_second_start_of_full_size_takes_two_seconds(folders, monkeypatch):
    arrays = made.cifar10(folders[0], np.random.default_rng(0), rows=10_000)
    made.trust(monkeypatch, tfds_builders.Cifar10, folders[0])
    check(data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1]), arrays)
    output = subprocess.run([sys.executable, "-c", NO_TFDS, "cifar10", str(folders[1])],
                            check=True, capture_output=True, text=True).stdout.split()
    assert output[1:] == ["50000", "False"]
    assert float(output[0]) < 2.0


@pytest.mark.slow
def test_debians_fashion_mnist(folders):
    debian = "/usr/share/datasets/fashion-mnist"
    assert os.path.isdir(debian), f"{debian} is missing; install Debian's package dataset-fashion-mnist."
    dataset = data.load("fashion_mnist", archive_dir=debian, cache_dir=folders[1])
    for split, files in ((dataset.train, fashion_mnist.FILES["train"]), (dataset.test, fashion_mnist.FILES["test"])):
        images, labels = (fashion_mnist.read_idx(f"{debian}/{file}") for file in files)
        np.testing.assert_array_equal(split.images[..., 0], images)
        np.testing.assert_array_equal(split.labels, labels)
