import jax
import numpy as np
import pytest

from morel_jax.data import Split
from morel_jax.data.extra import epoch_order, load_extra
from tests.small import images_and_labels

KEY = jax.random.key(3)


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


def test_own_images_alone_are_a_permutation():
    order = epoch_order(KEY, 2, 11, 4)
    assert order.shape == (2, 4)
    assert len(np.unique(order)) == 8
    np.testing.assert_array_equal(order, epoch_order(KEY, 2, 11, 4))
    assert not np.array_equal(order, epoch_order(KEY, 3, 11, 4))


@pytest.mark.parametrize("extra", [3, 100])
def test_batches_are_mixed_by_their_share(extra):
    order = epoch_order(KEY, 1, 40, 8, extra, 0.75)
    assert order.shape == (5, 8)
    assert (order[:, :2] < 40).all()
    assert ((order[:, 2:] >= 40) & (order[:, 2:] < 40 + extra)).all()
    assert len(np.unique(order[:, :2])) == 10
    _, counts = np.unique(order[:, 2:], return_counts=True)
    assert counts.max() - counts.min() <= 1  # All before any comes again.
