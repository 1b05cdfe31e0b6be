"""A run on a user's own files."""
import functools
import json

import numpy as np
import PIL.Image
import pytest

from morel_jax.evaluation.trained import load_trained, load_variables
from morel_jax.training import fit
from tests.small import tiny_config, tiny_dataset

pytestmark = pytest.mark.slow


@pytest.fixture
def birds(tmp_path):
    """Grey PNG files of ten classes, and a light config that names them."""
    dataset = tiny_dataset(train=96)
    for split in ("train", "test"):
        own = getattr(dataset, split)
        for number, (image, label) in enumerate(zip(own.images, own.labels, strict=True)):
            path = tmp_path / "birds" / split / f"class {label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(np.asarray(image[..., 0])).save(path)
    for label in range(10):  # Few test images: some classes have none.
        path = tmp_path / "birds" / "test" / f"class {label}" / "black.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.zeros((28, 28), np.uint8)).save(path)
    return tmp_path / "birds", functools.partial(
        tiny_config, "standard", batch_norm__statistics_from=("natural",), batch_size=16, epochs=1,
        data__name=f"folder:{tmp_path}/birds", data__cache_dir=str(tmp_path / "cache"))


def test_a_run_knows_its_files(birds, tmp_path):
    root, config = birds
    fit(config(), tmp_path / "run", progress=False)
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (data["name"], data["image_shape"], data["class_names"][1]) == ("folder:birds", [28, 28, 1], "class 1")
    assert load_variables(tmp_path / "run")[-1].sha256 == data["sha256"]
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=f"there is no folder {root}"):
        load_variables(tmp_path / "run")
    fit(config(data__name=f"folder:{moved}", epochs=2), tmp_path / "run", progress=False)
    assert len(load_variables(tmp_path / "run")[-1].test) == 30
    PIL.Image.fromarray(np.ones((28, 28), np.uint8)).save(moved / "train" / "class 0" / "new.png")
    with pytest.raises(ValueError, match=r"the files of config\.data\.name must be those that the run in .* is "):
        fit(config(data__name=f"folder:{moved}", epochs=3), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"the files of config\.data\.name must be those"):
        load_variables(tmp_path / "run")
    load_trained(tmp_path / "run")  # The network alone needs no data.


def test_a_first_try_that_could_not_read_its_images_is_no_run(birds, tmp_path):
    root, config = birds
    (root / "train" / "class 0" / "0.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"class 0/0\.png is not an image that can be read"):
        fit(config(), tmp_path / "run", progress=False)
    (root / "train" / "class 0" / "0.png").unlink()
    fit(config(data__image_size=14), tmp_path / "run", progress=False)
    assert load_trained(tmp_path / "run").data["image_shape"] == [14, 14, 1]
