import shutil

import pytest

from morel_jax import builders
from morel_jax.training.checkpoint import Checkpoints
from tests.small import small_dataset, tiny_dataset
from tests.training.checkpoints import save


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``last`` at 10 and 20, ``best`` at 20."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (5, 10):
            save(checkpoints, step)
        save(checkpoints, 20, "best")
        save(checkpoints, 20)
    return folder


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def small_data(monkeypatch):
    """Every config's data set is `small_dataset`'s."""
    monkeypatch.setattr(builders, "dataset", lambda config: small_dataset())


@pytest.fixture
def tiny_data(monkeypatch):
    """Every config's data set is `tiny_dataset`'s."""
    monkeypatch.setattr(builders, "dataset", lambda config: tiny_dataset())
