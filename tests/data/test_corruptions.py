import sys

import numpy as np
import pytest

from morel_jax.data.corruptions import CORRUPTIONS, load_corruption, load_labels, write_corruptions
from tests.data import corrupted
from tests.small import images_and_labels


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", corrupted.stand_in())


def test_the_published_layout_is_read_without_taking_memory(tmp_path):
    images, labels = images_and_labels(6)
    stacked = corrupted.write(tmp_path, images, labels.astype(np.uint8))
    found = load_corruption(tmp_path, "fog", 30)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, stacked)
    np.testing.assert_array_equal(load_labels(tmp_path), np.tile(labels, 5))
    assert load_labels(tmp_path).dtype == np.int32


@pytest.mark.parametrize(("labels", "message"), [
    (np.zeros(7, int), r"labels\.npy must be int\[5 n\].*got int64\[7\]"),
    (np.zeros(5), r"got float64\[5\]"),
    (np.zeros((5, 1), int), r"got int64\[5, 1\]"),
    (np.zeros(0, int), r"got int64\[0\]"),
])
def test_other_labels_are_refused(tmp_path, labels, message):
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=message):
        load_labels(tmp_path)


@pytest.mark.parametrize(("images", "message"), [
    (np.zeros((9, 4, 4, 3), np.uint8), r"fog\.npy must be uint8\[10, height.*got uint8\[9, 4, 4, 3\]"),
    (np.zeros((10, 4, 4, 3)), r"got float64\[10, 4, 4, 3\]"),
    (np.zeros((10, 4, 4), np.uint8), r"got uint8\[10, 4, 4\]"),
])
def test_other_images_are_refused(tmp_path, images, message):
    np.save(tmp_path / "fog.npy", images)
    with pytest.raises(ValueError, match=message):
        load_corruption(tmp_path, "fog", 10)


def test_what_is_missing_or_damaged_is_one_line(tmp_path):
    with pytest.raises(NotADirectoryError, match=f"corruptions_dir must be a folder.*got {tmp_path}/none"):
        load_labels(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path}/labels.npy"):
        load_labels(tmp_path)
    np.save(tmp_path / "fog.npy", np.zeros((10, 4, 4, 3), np.uint8))
    (tmp_path / "fog.npy").write_bytes((tmp_path / "fog.npy").read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{tmp_path}/fog\.npy is not a whole \.npy file"):
        load_corruption(tmp_path, "fog", 10)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (40, 3)])
def test_corruptions_are_written_as_published(tmp_path, library, size, channels):
    images, labels = images_and_labels(2, size, channels)
    written = []
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    write_corruptions(images, labels, tmp_path, on_written=written.append)
    assert [path.stem for path in written] == list(CORRUPTIONS)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.npy" for name in (*CORRUPTIONS, "labels")}
    np.testing.assert_array_equal(load_labels(tmp_path), np.tile(labels, 5))
    found = load_corruption(tmp_path, "glass_blur", 10)
    assert found.shape == (10, size, size, channels)
    difference = found.astype(int) - np.tile(images, (5, 1, 1, 1))
    for severity in range(1, 6):  # The stand-in's noise is in [0, 50), at its full strength in grey images too.
        part = difference[2 * (severity - 1):2 * severity]
        inside = (found[2 * (severity - 1):2 * severity] > 0) & (found[2 * (severity - 1):2 * severity] < 255)
        assert part[inside].min() >= -10 * severity
        assert part[inside].std() == pytest.approx(50 / np.sqrt(12), rel=0.1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_an_images_draws_depend_on_seed_name_severity_and_place_alone(tmp_path, library):
    images, labels = np.full((3, 32, 32, 3), 128, np.uint8), np.zeros(3, int)
    write_corruptions(images, labels, tmp_path / "a", corruptions=["fog", "snow"])
    write_corruptions(images[:2], labels[:2], tmp_path / "b", corruptions=["snow"])
    write_corruptions(images, labels, tmp_path / "c", corruptions=["snow"], seed=1)
    a, b, c = (np.load(tmp_path / name / "snow.npy") for name in "abc")
    np.testing.assert_array_equal(a.reshape(5, 3, -1)[:, :2], b.reshape(5, 2, -1))
    assert (a != c).any()
    assert (a != np.load(tmp_path / "a" / "fog.npy")).any()
    assert len({image.tobytes() for image in a}) == 15


def test_a_finished_corruption_is_not_computed_again(tmp_path, library, monkeypatch):
    images, labels = images_and_labels(2, 32)
    write_corruptions(images, labels, tmp_path, corruptions=["fog"])
    calls = []
    monkeypatch.setattr(sys.modules["imagecorruptions"], "corrupt",
                        lambda *a, **k: calls.append(k["corruption_name"]) or corrupted.corrupt(*a, **k))
    write_corruptions(images, labels, tmp_path, corruptions=["fog", "snow"])
    assert set(calls) == {"snow"}


def test_a_killed_write_leaves_no_file_of_that_name(tmp_path, library, monkeypatch):
    images, labels = images_and_labels(2, 32)
    monkeypatch.setattr(sys.modules["imagecorruptions"], "corrupt", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_corruptions(images, labels, tmp_path, corruptions=["fog"])
    assert not (tmp_path / "fog.npy").exists()


def test_other_images_and_folders_are_refused(tmp_path, library):
    images, labels = images_and_labels(2, 32)
    write_corruptions(images, labels, tmp_path, corruptions=["fog"])
    with pytest.raises(ValueError, match=r"labels\.npy must hold the labels of these images.*Give another folder"):
        write_corruptions(images, labels + 1, tmp_path)
    with pytest.raises(ValueError, match=r"fog\.npy must hold corrupted images of shape \(40, 32, 3\)"):
        write_corruptions(np.zeros((2, 40, 32, 3), np.uint8), labels, tmp_path)
    with pytest.raises(ValueError, match=r"corruptions must be among .*spatter; got fogg"):
        write_corruptions(images, labels, tmp_path, corruptions=["fogg"])
    with pytest.raises(ValueError, match=r"images must be uint8\[n, h, w, 1 or 3\].*got float32"):
        write_corruptions(images.astype(np.float32), labels, tmp_path)


def test_the_library_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs imagecorruptions: pip install 'morel_jax\[corruptions\]'"):
        write_corruptions(*images_and_labels(1, 32), tmp_path / "a")
    assert not (tmp_path / "a").exists()
