"""`npz:PATH`: arrays in a file."""
import re

import numpy as np
import pytest

from morel_jax import data

RANDOM = np.random.default_rng(0)
ARRAYS = {"x_train": RANDOM.integers(0, 256, (6, 5, 4, 3), np.uint8), "y_train": np.array([0, 1, 2, 0, 1, 2]),
          "x_test": RANDOM.integers(0, 256, (2, 5, 4, 3), np.uint8), "y_test": np.array([2, 0])}


def load(tmp_path, arrays=ARRAYS, write=np.savez, **options):
    write(tmp_path / "mine.npz", **arrays)
    return data.load(f"npz:{tmp_path}/mine.npz", cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_come_back(write, tmp_path):
    loaded = load(tmp_path, write=write)
    assert (loaded.name, loaded.class_names) == ("npz:mine.npz", ("0", "1", "2"))
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(loaded, split).images, ARRAYS[f"x_{split}"])
        np.testing.assert_array_equal(getattr(loaded, split).labels, ARRAYS[f"y_{split}"])
    assert len(loaded.sha256) == 64
    blank = data.blank(f"npz:{tmp_path}/mine.npz")
    assert (len(blank.train), len(blank.test), blank.image_shape, blank.num_classes) == (6, 2, (5, 4, 3), 3)


def test_kerass_forms_and_another_split(tmp_path):
    """Grey images without channels, labels in a column."""
    arrays = {"x_train": ARRAYS["x_train"][..., 0], "y_train": ARRAYS["y_train"][:, None].astype(np.uint8),
              "x_val": ARRAYS["x_test"][..., 0], "y_val": ARRAYS["y_test"]}
    loaded = load(tmp_path, arrays, test_split="val")
    assert loaded.image_shape == (5, 4, 1)
    assert (loaded.train.labels.dtype, loaded.train.labels.shape) == (np.int32, (6,))
    assert loaded.test.labels.tolist() == [2, 0]


@pytest.mark.parametrize(("changes", "message"), [
    ({"y_test": None}, "{path} must hold arrays x_train, y_train, x_test, y_test; it lacks y_test and has x_train"),
    ({"x_train": ARRAYS["x_train"] / 255},
     "x_train in {path} must be uint8[n, height, width], or uint8[n, height, width, channels] with 1 or 3 channels; "
     "got float64[6, 5, 4, 3]. Images in [0, 1] become that by (255 * x).round()"),
    ({"x_train": ARRAYS["x_train"].transpose(0, 3, 1, 2)}, "Channels that come first are put last by x.transpose(0, 2"),
    ({"x_test": np.zeros((2, 5, 4, 4), np.uint8)}, "got uint8[2, 5, 4, 4]."),
    ({"x_test": np.zeros((2, 4, 4, 3), np.uint8)},
     "x_train and x_test in {path} must have one image shape; got (5, 4, 3) and (4, 4, 3)."),
    ({"y_train": np.eye(6)}, "y_train in {path} must be int[6], a class number per image; got float64[6, 6]."),
    ({"y_train": np.array([0, 2] * 3)},
     "y_train in {path} must have all classes from 0 to the largest label, 2; class 1 has no training image."),
    ({"y_test": np.array([0, 7])}, "largest label, 7; class 3 has no training image."),
    ({"y_test": np.array([0, -1])}, "largest label, 2; got -1."),
])
def test_what_is_refused(changes, message, tmp_path):
    arrays = {name: array for name, array in (ARRAYS | changes).items() if array is not None}
    with pytest.raises(ValueError, match=re.escape(message.format(path=tmp_path / "mine.npz"))):
        load(tmp_path, arrays)


def test_no_such_file_and_no_such_form(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path}/none.npz"):
        data.load(f"npz:{tmp_path}/none.npz", cache_dir=tmp_path)
    (tmp_path / "mine.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"mine\.npz is not a whole \.npz file: "):
        data.load(f"npz:{tmp_path}/mine.npz", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="folder:PATH and npz:PATH for your own"):
        data.load(f"directory:{tmp_path}", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="image_size must be 0 but for folder:PATH; got 8"):
        load(tmp_path, image_size=8)
    with pytest.raises(ValueError, match=r"config\.data\.name, after the colon, must name a path"):
        data.load("npz:", cache_dir=tmp_path)
