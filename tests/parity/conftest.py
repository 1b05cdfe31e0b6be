import sys
import warnings
from unittest import mock

import pytest


def pytest_ignore_collect(config):
    """A run that deselects these tests need not have PyTorch, which they import."""
    expression = config.option.markexpr
    return None if "parity" in expression and "not parity" not in expression else True


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """PyTorch's threads wait for one another spinning: beside other workers that costs many times what they bring."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def quickstart_network(quickstart):
    """(logits_fn, variables, dataset) of the MOREL network that the quickstart trains."""
    from morel_jax.evaluation.trained import as_logits_fn, load_variables

    folder, _ = quickstart
    model, variables, _, dataset = load_variables(folder / "morel", "best")
    return as_logits_fn(model, variables), variables, dataset


def _import_torchvision():
    """RobustBench imports it by timm; the networks need none of its operators.

    They load only beside the build of PyTorch, CPU or CUDA, that torchvision was built with; without them its own
    import fails where it says what shapes they give.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        with mock.patch.object(torch.library, "register_fake", return_value=lambda shapes: shapes):
            import torchvision  # noqa: F401


@pytest.fixture(scope="session")
def robustbench():
    """RobustBench's package. It imports AutoAttack by its name on GitHub; the package index has it by another."""
    import pyautoattack.state

    sys.modules |= {"autoattack": pyautoattack, "autoattack.state": pyautoattack.state}
    _import_torchvision()
    with warnings.catch_warnings():  # Of pkg_resources, which it imports.
        warnings.simplefilter("ignore")
        import robustbench
        import robustbench.utils
    return robustbench
