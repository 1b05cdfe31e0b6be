import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.data import Dataset, Split

NAMES = ("a", "b")


def split(n=4, shape=(2, 2, 1), label=1):
    return Split(np.zeros((n, *shape), np.uint8), np.full(n, label, np.int32))


def test_holds_what_it_was_given():
    dataset = Dataset("made", split(4), split(3), 2, NAMES)
    assert (len(dataset.train), len(dataset.test), dataset.image_shape) == (4, 3, (2, 2, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


@pytest.mark.parametrize(("images", "labels", "error", "message"), [
    (np.zeros((2, 2, 2, 1), np.float32), np.zeros(2, np.int32), TypeError, "Split.images .* got float32"),
    (np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, np.int64), TypeError, r"Split.labels .* int32; got int64"),
    ([[0]], np.zeros(2, np.int32), TypeError, "got one of type builtins.list"),
    (jnp.zeros((2, 2, 2, 1), jnp.uint8), np.zeros(2, np.int32), TypeError, "NumPy array of uint8; got one of type jax"),
    (np.zeros((2, 2, 2, 1), np.uint8), np.eye(2, dtype=np.int32), ValueError,
     r"Split.labels must have the shape \(2,\), one per image; got \(2, 2\)\. .* one-hot"),
    (np.zeros((2, 2, 2, 1), np.uint8), np.zeros((2, 1), np.int32), ValueError,
     r"got \(2, 1\)\. Give Split.labels\[:, 0\]"),
    (np.zeros((2, 2, 2, 1), np.uint8), np.eye(2, dtype=np.float32), TypeError, "int32; got float32. .* one-hot"),
    (np.zeros((2, 2, 0, 1), np.uint8), np.zeros(2, np.int32), ValueError, r"no side of length 0; got \(2, 2, 0, 1\)"),
    (np.zeros((2, 2, 2), np.uint8), np.zeros(2, np.int32), ValueError, 
     r"Split.images must have the shape \[n, height, width, channels\]; got \(2, 2, 2\)"),
    (np.zeros((2, 2, 2, 1), np.uint8), np.zeros(3, np.int32), ValueError, r"shape \(2,\), one per image; got \(3,\)"),
    (np.zeros((0, 2, 2, 1), np.uint8), np.zeros(0, np.int32), ValueError, "at least one image; got none"),
    (np.zeros((1, 2, 2, 1), np.uint8), np.array([-1], np.int32), ValueError, ">= 0 .* got -1"),
])
def test_split_refuses(images, labels, error, message):
    with pytest.raises(error, match=message):
        Split(images, labels)


@pytest.mark.parametrize(("train", "test", "names", "message"), [
    (split(), split(shape=(3, 2, 1)), NAMES, r"one shape; got \(2, 2, 1\) and \(3, 2, 1\)"),
    (split(), split(), ("a",), "2 names; got 1"),
    (split(label=2), split(), NAMES, "train labels must be below num_classes = 2; got 2"),
    (split(), split(label=5), NAMES, "test labels must be below num_classes = 2; got 5"),
])
def test_dataset_refuses(train, test, names, message):
    with pytest.raises(ValueError, match=message):
        Dataset("made", train, test, 2, names)
