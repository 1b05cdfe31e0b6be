import dataclasses
import logging
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from morel_jax import data, manifest
from morel_jax.data import archives, readers, sources

from . import made

# In a process of its own: cache_dir, address and SHA-256 of a made CIFAR-10, and then what it is to do.
PROCESS = """
import dataclasses, os, sys, time
from morel_jax import data
from morel_jax.data import readers
cache_dir, url, sha256 = sys.argv[1:4]
reader = readers.BY_NAME["cifar10"]
archive = dataclasses.replace(reader.archives[0], url=url, sha256=sha256)
readers.BY_NAME["cifar10"] = dataclasses.replace(reader, archives=(archive,))
"""
LOAD = """
start = time.monotonic()
dataset = data.load("cifar10", cache_dir=cache_dir, archive_dir=(sys.argv[4:] or [None])[0])
print(time.monotonic() - start, len(dataset.train), "tensorflow_datasets" in sys.modules)
"""
DIE_IN_A_DOWNLOAD = """
import pooch

def die(self, url, output_file, *_):
    with open(output_file, "wb") as file:
        file.write(b"half")
    os._exit(9)

pooch.HTTPDownloader.__call__ = die
data.load("cifar10", cache_dir=cache_dir)
"""


def process(code, cache_dir, *arguments):
    (archive,) = readers.BY_NAME["cifar10"].archives
    command = [sys.executable, "-c", PROCESS + code, cache_dir, archive.url, archive.sha256, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.fixture
def folders(tmp_path):
    """archive_dir and cache_dir."""
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives", tmp_path / "cache"


@pytest.fixture
def cifar10(folders, monkeypatch):
    arrays = made.cifar10(folders[0], np.random.default_rng(0))
    made.trust(monkeypatch, "cifar10", folders[0])
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


def test_archives_are_decoded_into_the_cache(folders, cifar10, capfd):
    (folders[1] / "decoded" / ".cifar10.abc.scratch" / "old").mkdir(parents=True)  # What a killed start left.
    check(data.load("cifar10", archive_dir=str(folders[0]), cache_dir=str(folders[1])), cifar10)
    assert capfd.readouterr().out == ""
    assert [path.name for path in folders[1].iterdir()] == ["decoded"]
    assert entry(folders[1]).name.startswith("cifar10-")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_published_checksums_are_those_that_tfds_knows(name):
    import tensorflow_datasets as tfds
    published = {url: info.checksum for url, info in tfds.builder_cls(name).url_infos.items()}
    assert {archive.url: archive.sha256 for archive in readers.BY_NAME[name].archives} == published


def test_wrong_checksum(folders):
    (folders[0] / "cifar-10-binary.tar.gz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz must have SHA-256 c4a38c50.*; got d9298a10"):
        data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])


def test_download(folders, cifar10, monkeypatch):
    with made.serve(folders[0]) as address:
        made.trust(monkeypatch, "cifar10", folders[0], address)
        check(data.load("cifar10", cache_dir=folders[1]), cifar10)
    (archive,) = (folders[1] / "downloads" / "cifar10").iterdir()
    assert archive.read_bytes() == (folders[0] / "cifar-10-binary.tar.gz").read_bytes()


def test_a_killed_download_is_cleared_away(folders, cifar10, monkeypatch):
    with made.serve(folders[0]) as address:
        made.trust(monkeypatch, "cifar10", folders[0], address)
        died = process(DIE_IN_A_DOWNLOAD, folders[1])
        assert died.returncode == 9, died.stderr
        (half,) = (path for path in folders[1].rglob("*") if path.is_file())
        assert half.read_bytes() == b"half"
        check(data.load("cifar10", cache_dir=folders[1]), cifar10)
    assert sorted(path.name for path in folders[1].rglob("*") if path.is_file()) == [
        "checksums.json", "cifar-10-binary.tar.gz", "entry.json",
        "test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]


def test_offline(folders, monkeypatch):
    reader = readers.BY_NAME["cifar10"]
    archive = dataclasses.replace(reader.archives[0], url=f"http://127.0.0.1:{closed_port()}/cifar-10-binary.tar.gz")
    monkeypatch.setitem(readers.BY_NAME, "cifar10", dataclasses.replace(reader, archives=(archive,)))
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary.tar.gz  from") as error:
        data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])
    assert time.monotonic() - start < 15
    assert archive.url in str(error.value)
    assert "pass that folder as archive_dir" in str(error.value)


def test_only_missing_archives_are_asked_for(folders, monkeypatch):
    made.fashion(folders[0], np.random.default_rng(2))
    made.trust(monkeypatch, "fashion_mnist", folders[0])
    (folders[0] / "t10k-labels-idx1-ubyte.gz").unlink()
    asked = []
    monkeypatch.setattr(archives, "_require_reachable", lambda name, missing: asked.append(missing) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.load("fashion_mnist", archive_dir=folders[0], cache_dir=folders[1])
    assert [[archive.file for archive in missing] for missing in asked] == [["t10k-labels-idx1-ubyte.gz"]]


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


def test_splits_are_the_publishers(tmp_path):
    with pytest.raises(ValueError, match="tiny_imagenet has the splits train, validation; got test_split='test'"):
        data.load("tiny_imagenet", cache_dir=tmp_path, test_split="test")
    with pytest.raises(ValueError, match="cifar10 has the splits train, test; got test_split='train'"):
        data.load("cifar10", cache_dir=tmp_path, test_split="train")


def test_cache_hit_needs_neither_archive_nor_tfds(folders, cifar10):
    data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])
    (folders[0] / "cifar-10-binary.tar.gz").unlink()
    check(data.load("cifar10", cache_dir=folders[1], test_split="test"), cifar10)
    assert process(LOAD, folders[1]).stdout.split()[1:] == ["35", "False"]


def test_building_needs_no_tfds(folders, cifar10):
    assert process(LOAD, folders[1], folders[0]).stdout.split()[1:] == ["35", "False"]


def test_order_is_the_same_every_time(folders, cifar10, tmp_path):
    sums = []
    for place in ("one", "two"):
        data.load("cifar10", archive_dir=folders[0], cache_dir=tmp_path / place)
        sums.append((entry(tmp_path / place) / manifest.NAME).read_text())
    assert sums[0] == sums[1]


def test_damaged_cache_is_reported_and_made_again(folders, cifar10, caplog):
    data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1])
    path = entry(folders[1]) / "test_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for damaged, message in ((content[:-1], "bytes; got"), (content, "BLAKE2b")):
        path.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "morel_jax.data.cache"):
            check(data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1]), cifar10)
        (record,) = [record for record in caplog.records if record.name == "morel_jax.data.cache"]
        assert "is damaged and will be made again" in record.getMessage()
        assert message in record.getMessage()


def test_a_data_dir_without_the_data_set_is_left_as_it_is(folders, cifar10, tmp_path, caplog):
    (tmp_path / "tfds").mkdir()
    with caplog.at_level(logging.INFO, "morel_jax.data.sources"):
        dataset = data.load("cifar10", data_dir=tmp_path / "tfds", archive_dir=folders[0], cache_dir=folders[1])
    check(dataset, cifar10)
    assert f"{tmp_path / 'tfds'} holds no prepared cifar10; its archives are used" in caplog.text
    assert list((tmp_path / "tfds").iterdir()) == []


def test_default_cache_dir(folders, cifar10, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    data.load("cifar10", archive_dir=folders[0])
    assert entry(tmp_path / "xdg" / "morel_jax").name.startswith("cifar10-")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_blank_has_the_shapes_that_tfds_knows(name, tmp_path):
    import tensorflow_datasets as tfds
    features, blank = tfds.builder(name, data_dir=tmp_path).info.features, data.blank(name)
    assert blank.image_shape == features["image"].shape
    assert blank.num_classes == features["label"].num_classes


@pytest.mark.parametrize("name", sources.KNOWN)
def test_blank_takes_no_memory(name):
    assert data.blank(name).test.images.strides == (0, 0, 0, 0)


def test_blank_has_the_published_numbers_of_images():
    numbers = {name: (len(data.blank(name).train), len(data.blank(name).test)) for name in sources.KNOWN}
    assert numbers == {"fashion_mnist_small": (10_000, 2_000), "fashion_mnist": (60_000, 10_000),
                       "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "tiny_imagenet": (100_000, 10_000)}


def test_blank_of_an_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="Unknown data set 'imagenette'"):
        data.blank("imagenette")
    with pytest.raises(FileNotFoundError, match="holds no prepared data set 'imagenette': looked for"):
        data.blank("imagenette", data_dir=tmp_path)


def test_importing_the_package_imports_no_tfds():
    code = "import sys, morel_jax.data; print('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                          env=os.environ).stdout == "False\n"
    assert set(sources.KNOWN) == {"fashion_mnist_small", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet"}


@pytest.mark.slow
def test_second_start_of_full_size_takes_two_seconds(folders, monkeypatch):
    arrays = made.cifar10(folders[0], np.random.default_rng(0), rows=10_000)
    made.trust(monkeypatch, "cifar10", folders[0])
    check(data.load("cifar10", archive_dir=folders[0], cache_dir=folders[1]), arrays)
    seconds, *output = process(LOAD, folders[1]).stdout.split()
    assert output == ["50000", "False"]
    assert float(seconds) < 2.0
