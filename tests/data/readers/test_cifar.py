import numpy as np

from morel_jax import data
from tests.data import made


def load(name, folder, monkeypatch):
    arrays = getattr(made, name)(folder, np.random.default_rng(0))
    made.trust(monkeypatch, name, folder)
    dataset = data.load(name, archive_dir=folder, cache_dir=folder / "cache")
    for split in ("train", "test"):
        found = getattr(dataset, split)
        np.testing.assert_array_equal(found.images, arrays[split][0])
        np.testing.assert_array_equal(found.labels, arrays[split][1])
    return dataset


def test_cifar10(tmp_path, monkeypatch):
    assert load("cifar10", tmp_path, monkeypatch).class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_cifar100_takes_the_fine_labels(tmp_path, monkeypatch):
    assert load("cifar100", tmp_path, monkeypatch).class_names == tuple(made.FINE)
