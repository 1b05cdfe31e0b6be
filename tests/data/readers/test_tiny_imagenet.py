import numpy as np
import pytest

from morel_jax import data
from morel_jax.data import readers
from morel_jax.data.readers import tiny_imagenet
from tests.data import made


def test_published_checksum():
    (archive,) = readers.BY_NAME["tiny_imagenet"].archives
    assert archive.file == "tiny-imagenet-200.zip"
    assert archive.sha256 == "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    arrays = made.tiny_imagenet(tmp_path, np.random.default_rng(0))
    made.trust(monkeypatch, "tiny_imagenet", tmp_path)
    return arrays


def test_load(tmp_path, arrays):
    dataset = data.load("tiny_imagenet", archive_dir=tmp_path, cache_dir=tmp_path / "cache")
    for split, (images, labels) in ((dataset.train, arrays["train"]), (dataset.test, arrays["validation"])):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert dataset.train.images.shape == (200, 64, 64, 3)
    assert dataset.class_names[2] == "thing 2, object 2"
    assert np.ptp(dataset.train.images[0], axis=-1).max() == 0  # The grey one.
    assert np.ptp(dataset.train.images[1], axis=-1).max() > 0


def test_class_names_are_distinct():
    words = "n3\tcrane\nn1\tcrane\nn2\tgoldfish, Carassius auratus\n"
    assert tiny_imagenet.class_names(["n1", "n2", "n3", "n4"], words) == [
        "crane (n1)", "goldfish, Carassius auratus", "crane (n3)", "n4"]
