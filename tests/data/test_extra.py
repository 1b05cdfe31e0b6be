import numpy as np
import pytest

from morel_jax.data import Split
from morel_jax.data.extra import load_extra
from tests.small import images_and_labels


def split(count=10):
    return Split(*images_and_labels(count))


def test_extra_images_stand_behind_the_own(tmp_path):
    own, (images, labels) = split(), images_and_labels(6, seed=1)
    np.savez(tmp_path / "extra.npz", image=images, label=labels.astype(np.int64))
    found = load_extra(tmp_path / "extra.npz", own, 4)
    np.testing.assert_array_equal(found.images, np.concatenate([own.images, images]))
    np.testing.assert_array_equal(found.labels, np.concatenate([own.labels, labels]))


@pytest.mark.parametrize(("arrays", "message"), [
    (dict(images=np.zeros(3)), "must hold arrays image and label; got images"),
    (dict(image=np.zeros((3, 8, 8, 3), np.float32), label=np.zeros(3, int)), r"uint8\[n, 8, 8, 3\]; got float32"),
    (dict(image=np.zeros((3, 9, 8, 3), np.uint8), label=np.zeros(3, int)), r"got uint8\[3, 9, 8, 3\]"),
    (dict(image=np.zeros((3, 8, 8, 3), np.uint8), label=np.zeros(2, int)), r"must be int\[3\]; got int64\[2\]"),
    (dict(image=np.zeros((3, 8, 8, 3), np.uint8), label=np.full(3, 4)), r"must be in 0 \.\. 3.*got 4 \.\. 4"),
    (dict(image=np.zeros((0, 8, 8, 3), np.uint8), label=np.zeros(0, int)), "got none"),
])
def test_other_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "extra.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_extra(tmp_path / "extra.npz", split(), 4)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.data\.extra must be an \.npz file"):
        load_extra(tmp_path / "none.npz", split(), 4)


def test_paths_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images, labels = images_and_labels(6, seed=1)
    np.savez(tmp_path / "extra.npz", image=images, label=labels)
    assert len(load_extra("~/extra.npz", split(), 4)) == 16
    with pytest.raises(ValueError, match=r"config\.data\.extra must be a path"):
        load_extra("s3://bucket/extra.npz", split(), 4)
