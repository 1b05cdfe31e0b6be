import numpy as np
import pytest

from morel_jax import builders
from morel_jax.configuration import defaults
from morel_jax.data import Dataset, Split


def changed(**changes):
    config = defaults()
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        with config.unlocked():
            (config[section] if section else config)._fields[field] = value
    return config


def dataset(count=20, channels=3):
    def split(n):
        return Split(np.zeros((n, 8, 8, channels), np.uint8), np.arange(n, dtype=np.int32) % 2)
    return Dataset(name="x", train=split(count), test=split(10), num_classes=2, class_names=("a", "b"))


def test_splits():
    train, validation = builders.splits(changed(), dataset())
    assert (len(train.labels), len(validation.labels)) == (20, 10)
    train, validation = builders.splits(changed(validation__split="holdout", validation__holdout=7), dataset())
    assert (len(train.labels), len(validation.labels)) == (13, 7)
    _, validation = builders.splits(changed(validation__examples=4), dataset())
    assert len(validation.labels) == 4


def sorted_dataset(per_class=(40, 30, 20, 10)):
    """Rows sorted by class; a row's number is in its first pixels."""
    labels = np.repeat(np.arange(len(per_class), dtype=np.int32), per_class)
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    split = Split(images, labels)
    return Dataset("x", split, split, len(per_class), tuple("abcd"[:len(per_class)]))


def test_parts_of_sorted_data_have_each_class_in_proportion():
    config = changed(validation__split="holdout", validation__holdout=20, validation__examples=10)
    whole = sorted_dataset()
    train, validation = builders.splits(config, whole)
    assert np.bincount(train.labels).tolist() == [32, 24, 16, 8]
    assert np.bincount(validation.labels).tolist() == [4, 3, 2, 1]
    rows = train.images[:, 0, 0, 0]
    assert np.all(np.diff(rows.astype(int)) > 0)  # In the data set's order.
    np.testing.assert_array_equal(train.labels, whole.train.labels[rows])
    assert not set(rows) & set(validation.images[:, 0, 0, 0])
    # The same always, whatever the seed: a resumed run, and another seed of it, validate on the same images.
    config.seed = 9
    np.testing.assert_array_equal(builders.splits(config, whole)[1].images, validation.images)
    _, judged = builders.splits(changed(validation__examples=10), whole)
    assert np.bincount(judged.labels).tolist() == [4, 3, 2, 1]


def test_no_class_disappears_from_training():
    one_of_a_kind = sorted_dataset((50, 50, 1))
    with pytest.raises(ValueError, match=r"holdout must leave images of every class .* class . has none left; got 100"):
        builders.splits(changed(validation__split="holdout", validation__holdout=100), one_of_a_kind)


def test_parts_of_a_blank_data_set_take_no_memory():
    blank = builders.blank_dataset(changed(data__name="cifar10"))
    train, validation = builders.splits(changed(validation__split="holdout", validation__examples=10), blank)
    assert (len(train.labels), len(validation.labels)) == (49_000, 10)
    assert train.images.strides[0] == 0


@pytest.mark.parametrize(("change", "message"), [
    (dict(attack__norm="l2", attack__epsilon=14.0), r"config.attack.epsilon must be at most 13.8564, where the ball in "
                                                    r"l2 holds every image of shape \(8, 8, 3\); got 14.0"),
    (dict(data__crop_padding=8), r"crop_padding must be less than the images' smaller side, 8; got 8"),
    (dict(data__crop_padding=10**8), r"crop_padding must be less than .*got 100000000"),
    (dict(epochs=2**31 - 1, batch_size=1), r"epochs must make fewer than 2\*\*31 steps"),
    (dict(model__mean=(0.1,), model__std=(1.0,)), r"model\.mean must have one entry per channel \(3\)"),
    (dict(validation__split="holdout", validation__holdout=20), r"holdout must be less than the 20 training images"),
    (dict(batch_size=21), r"batch_size must be at most the number of training images, 20; got 21"),
    (dict(model__mean=(0.1, 0.2), model__std=(1.0, 1.0)), r"model\.mean must have one entry per channel \(3\)"),
])
def test_split_errors(change, message):
    with pytest.raises(ValueError, match=message):
        builders.splits(changed(**change), dataset())
