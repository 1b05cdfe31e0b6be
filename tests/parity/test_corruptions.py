"""The package that computes common corruptions, as `write_corruptions` calls it."""
import numpy as np
import pytest
from imagecorruptions import corrupt

from morel_jax import data
from morel_jax.data.corruptions import CORRUPTIONS, write_corruptions

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(images, folder): a dozen of the embedded images and all their corruptions."""
    folder, test = tmp_path_factory.mktemp("corrupted"), data.load("fashion_mnist_small").test
    write_corruptions(test.images[:12], test.labels[:12], folder)
    return test.images[:12], folder


def test_all_fifteen_are_computed_and_grow_with_the_severity(written):
    images, folder = written
    for name in CORRUPTIONS:
        found = np.load(folder / f"{name}.npy").reshape(5, 12, 28, 28, 1)
        distance = np.abs(found.astype(int) - images).mean((1, 2, 3, 4))
        assert distance[0] > 1, name
        assert distance[4] > distance[0], name


@pytest.mark.parametrize(
    "name", ["brightness", "contrast", "defocus_blur", "zoom_blur", "pixelate", "jpeg_compression"])
def test_what_draws_nothing_is_the_packages_own_answer(tmp_path, name):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    write_corruptions(images, np.zeros(2, int), tmp_path, corruptions=[name])
    expected = [corrupt(image, severity, name) for severity in range(1, 6) for image in images]
    np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)


def test_a_seed_gives_the_same_images_again(written, tmp_path):
    images, folder = written
    drawn = ["gaussian_noise", "impulse_noise", "glass_blur", "frost", "elastic_transform"]
    write_corruptions(images, np.load(folder / "labels.npy")[:12], tmp_path, corruptions=drawn)
    for name in drawn:
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), np.load(folder / f"{name}.npy"))
