import numpy as np
import pytest

from morel_jax.evaluation.pool import Finished
from morel_jax.evaluation.saved_images import SavedImages
from morel_jax.files import DamagedFileError


def finished(index, value):
    image = np.full((2, 2, 1), value, np.float32)
    return Finished(index, 1, {"projected": image, "rounded": np.round(image * 255).astype(np.uint8)})


def test_images_are_kept_by_index_and_added_to(tmp_path):
    SavedImages(tmp_path, (3, 2, 2, 1)).writer("fgsm")([finished(2, 0.2)])
    SavedImages(tmp_path, (3, 2, 2, 1)).writer("fgsm")([finished(0, 1.0)])
    np.testing.assert_allclose(np.load(tmp_path / "fgsm.npy")[:, 0, 0, 0], [1.0, 0.0, 0.2])
    np.testing.assert_array_equal(np.load(tmp_path / "fgsm_uint8.npy")[:, 0, 0, 0], [255, 0, 51])
    with pytest.raises(DamagedFileError, match=r"holds float32\(3, 2, 2, 1\), not float32\(4, 2, 2, 1\)"):
        SavedImages(tmp_path, (4, 2, 2, 1)).writer("fgsm")


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:100], lambda content: content[:-4],
                                    lambda content: b"x" + content])
def test_damaged_images_are_one_line(tmp_path, damage):
    SavedImages(tmp_path, (3, 2, 2, 1)).writer("fgsm")([finished(2, 0.2)])
    path = tmp_path / "fgsm.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=r"fgsm\.npy is not an array as it was written"):
        SavedImages(tmp_path, (3, 2, 2, 1)).writer("fgsm")


@pytest.fixture
def saved(tmp_path):
    """A folder of two attacks' images with their checksums."""
    images = SavedImages(tmp_path / "adversarial", (3, 2, 2, 1))
    for attack in ("cw", "fgsm"):
        images.writer(attack)([finished(2, 0.2)])
    images.finish()
    return tmp_path / "adversarial"


def test_images_as_they_were_finished_are_opened_and_added_to(saved):
    before = (saved / "checksums.json").read_bytes()
    again = SavedImages(saved, (3, 2, 2, 1))
    again.finish()
    assert (saved / "checksums.json").read_bytes() == before
    again.writer("fgsm")([finished(0, 1.0)])
    assert not (saved / "checksums.json").exists()  # A kill here leaves none that are wrong.
    again.finish()
    assert (saved / "checksums.json").read_bytes() != before
    SavedImages(saved, (3, 2, 2, 1))


@pytest.mark.parametrize(("name", "damage", "problem"), [
    ("cw.npy", lambda content: content[:-4], r"cw\.npy must have 176 bytes; got 172"),
    ("fgsm_uint8.npy", lambda content: content[:-1] + b"x", r"fgsm_uint8\.npy is not what was written"),
    ("fgsm.npy", None, r"fgsm\.npy is missing"),
    ("checksums.json", "folder", r"checksums\.json cannot be read: Is a directory"),
    ("checksums.json", lambda content: content[:9], r"checksums\.json is cut or altered"),
])
def test_damage_to_finished_images_is_one_line_with_the_remedy(saved, name, damage, problem):
    path = saved / name
    if damage is None:
        path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=f"adversarial/{problem}.* Put back a copy of it, or move"):
        SavedImages(saved, (3, 2, 2, 1))


def test_images_of_an_earlier_version_get_checksums(saved):
    (saved / "checksums.json").unlink()
    SavedImages(saved, (3, 2, 2, 1)).finish()
    assert (saved / "checksums.json").exists()


def test_without_images_there_is_no_folder(tmp_path):
    SavedImages(tmp_path / "adversarial", (3, 2, 2, 1)).finish()
    assert not (tmp_path / "adversarial").exists()
