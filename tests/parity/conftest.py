import os
import time

import pytest


def pytest_ignore_collect(config):
    """A run that deselects these tests need not have PyTorch, which they import."""
    return True if "not parity" in config.option.markexpr else None


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """PyTorch's threads wait for one another spinning: beside other workers that costs many times what they bring."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def quickstart_network(tmp_path_factory, worker_id):
    """(logits_fn, variables, dataset) of the MOREL network that the quickstart trains; trained once for all workers."""
    from morel_jax.evaluation.trained import as_logits_fn, load_variables

    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "quickstart"
    try:
        os.mkdir(folder)
    except FileExistsError:
        while not (folder / "trained").exists():
            time.sleep(1)
            assert not (folder / "failed").exists(), "training failed in another worker"
    else:
        _train(folder)
    model, variables, _, dataset = load_variables(folder / "run", "best")
    return as_logits_fn(model, variables), variables, dataset


def _train(folder):
    from morel_jax.training import fit
    from tests.small import quickstart_config

    try:
        fit(quickstart_config(), folder / "run", progress=False)
    except BaseException:
        (folder / "failed").touch()
        raise
    (folder / "trained").touch()
