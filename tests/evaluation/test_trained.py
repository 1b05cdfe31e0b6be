"""Networks read back from a run's folder, which describes its data by itself."""
import json

import jax
import numpy as np
import pytest

from morel_jax import builders, evaluation, training
from morel_jax.evaluation.trained import load_trained, load_variables
from tests.small import tiny_config, tiny_dataset


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "dataset", lambda config: tiny_dataset())
        folder = tmp_path_factory.mktemp("run")
        training.fit(tiny_config("standard", epochs=1), folder, progress=False)
        return folder


@pytest.fixture
def without_data(monkeypatch):
    def nothing(config):
        raise FileNotFoundError("the data set is not there")

    monkeypatch.setattr(builders, "dataset", nothing)


IMAGES = tiny_dataset().test.images[:4] / np.float32(255)


def test_no_data_set_is_read(workdir, without_data):
    trained = load_trained(workdir)
    assert trained.data == {"name": "small", "image_shape": [28, 28, 1], "num_classes": 10, "train_images": 48,
                            "test_images": 20, "class_names": list(tiny_dataset().class_names)}
    logits_fn, config = evaluation.load(workdir, "last")
    assert config.to_dict() == tiny_config("standard", epochs=1).to_dict()
    assert logits_fn(IMAGES).shape == (4, 10)
    with pytest.raises(FileNotFoundError, match="the data set is not there"):
        load_variables(workdir)


def test_a_folder_of_an_earlier_version(workdir, tmp_path, monkeypatch):
    """It does not describe its data, and has a field under its earlier name: the run is loaded, and resumed."""
    expected = evaluation.load(workdir, "last")[0](IMAGES)
    path = workdir / "config.json"
    written = path.read_text()
    content = json.loads(written)
    del content["data"]
    content["config"]["batch_norm"]["moves"] = content["config"]["batch_norm"].pop("statistics_from")
    path.write_text(json.dumps(content))
    monkeypatch.setattr(builders, "dataset", lambda config: tiny_dataset())
    logits_fn, config = evaluation.load(workdir, "last")
    np.testing.assert_array_equal(logits_fn(IMAGES), expected)
    assert config.batch_norm.statistics_from == ("natural",)
    state, history = training.fit(tiny_config("standard", epochs=1), workdir, progress=False)
    assert (int(state.step), len(history)) == (6, 1)
    assert json.loads(path.read_text())["data"] == json.loads(written)["data"]
    jax.tree.map(np.testing.assert_array_equal, state.inference_variables(), load_trained(workdir, "last").variables)
