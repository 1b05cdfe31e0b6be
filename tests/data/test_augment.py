import jax
import numpy as np

from morel_jax.attacks.keys import fold_in_each
from morel_jax.data import augment
from morel_jax.data.augment import to_float
from tests.small import images_and_labels

crop_and_flip = jax.jit(augment.crop_and_flip, static_argnames=("padding", "flip"))
cutmix = jax.jit(augment.cutmix)


def keys(indices, seed=0):
    return fold_in_each(jax.random.key(seed), np.asarray(indices))


def test_each_result_is_a_window_of_the_padded_image_or_its_mirror():
    images, _ = images_and_labels(count=60, size=5)
    augmented = np.asarray(crop_and_flip(keys(range(60)), images, padding=2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for image, result in zip(padded, augmented, strict=True):
        found = [(row, column, mirrored) for row in range(5) for column in range(5) for mirrored in (False, True)
                 if np.array_equal(image[row:row + 5, column:column + 5][:, ::-1 if mirrored else 1], result)]
        assert found
        seen.add(found[0])
    assert {row for row, _, _ in seen} == {column for _, column, _ in seen} == set(range(5))
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_nothing_asked_nothing_done():
    images, _ = images_and_labels()
    np.testing.assert_array_equal(crop_and_flip(keys(range(8)), images, padding=0, flip=False), images)


def test_dtype_is_kept():
    images, _ = images_and_labels()
    assert crop_and_flip(keys(range(8)), images).dtype == np.uint8


def test_an_example_does_not_depend_on_its_batch():
    images, _ = images_and_labels()
    whole = np.asarray(crop_and_flip(keys(range(8)), images))
    np.testing.assert_array_equal(crop_and_flip(keys([5, 2]), images[[5, 2]]), whole[[5, 2]])


def test_to_float_is_division_by_255():
    images = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(jax.jit(to_float)(images), images.astype(np.float32) / np.float32(255))


def test_cutmix_pastes_a_rectangle_of_the_partner():
    images = np.arange(1, 9, dtype=np.float32)[:, None, None, None] * np.ones((8, 6, 7, 2), np.float32)
    mixed, partner, share = map(np.asarray, cutmix(keys(range(8)), images, 1.0))
    np.testing.assert_array_equal(partner, [4, 5, 6, 7, 0, 1, 2, 3])
    sizes = set()
    for i in range(8):
        pasted = mixed[i, ..., 0] == images[partner[i], 0, 0, 0]
        np.testing.assert_array_equal(mixed[i, ..., 0] == images[i, 0, 0, 0], ~pasted)
        rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
        assert pasted.sum() == len(rows) * len(columns)  # A rectangle, without gaps:
        assert all(len(one) < 2 or one[-1] - one[0] == len(one) - 1 for one in (rows, columns))
        np.testing.assert_allclose(share[i], 1 - pasted.mean(), rtol=1e-6)
        sizes.add(int(pasted.sum()))
    assert len(sizes) > 3


def test_cutmix_shares_follow_the_distribution():
    """Where no border cuts anything off a rectangle covers 1 - share; the border only makes it smaller."""
    images = np.zeros((512, 32, 32, 1), np.float32)
    even = np.asarray(cutmix(keys(range(512)), images, 1.0)[2])
    extreme = np.asarray(cutmix(keys(range(512)), images, 0.05)[2])
    assert 0.5 < even.mean() < 0.75
    assert np.mean((extreme < 0.02) | (extreme > 0.98)) > 2 * np.mean((even < 0.02) | (even > 0.98))


def test_a_tpus_products_give_the_same_bits():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    corners, mirrored = rng.integers(0, 5, (40, 2)).astype(np.int32), rng.integers(0, 2, 40).astype(bool)
    by_products, by_slices = (jax.jit(cut, static_argnames="padding")(images, corners, mirrored, padding=2)
                              for cut in (augment._cut_by_products, augment._cut_by_slices))
    assert by_products.dtype == np.uint8
    np.testing.assert_array_equal(by_products, by_slices)
