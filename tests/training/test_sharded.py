import os
import subprocess
import sys

import numpy as np
import pytest

from tests.small import COMPILE_QUICKLY
from tests.training.sharded_steps import DTYPES, JOINED, JOINED_MESHES, MESHES, WRAPPED_MESHES, name_of

# Of losses, relative; of parameters, in units of the largest. The second pair shows that the algorithm is the same.
TOLERANCES = {"float32": (1e-5, 1e-4), "float64": (1e-10, 1e-10)}


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    # The quick flags choose other emitters of XLA's, which round float64 at 1e-9.
    flags = {"float32": COMPILE_QUICKLY, "float64": "--xla_backend_optimization_level=0"}
    found = {}
    for dtype in DTYPES:
        path = tmp_path_factory.mktemp("sharded") / "steps.npz"
        subprocess.run([sys.executable, "-m", "tests.training.sharded_steps", path, dtype], check=True,
                       env=os.environ | {"XLA_FLAGS": flags[dtype]})
        with np.load(path) as arrays:
            found |= arrays
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES[1:], ids=lambda mesh: f"{mesh[0]}x{mesh[1]}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_are_those_of_one_device(steps, dtype, mesh):
    got, one = name_of(dtype, *mesh), name_of(dtype, *MESHES[0])
    of_losses, of_parameters = TOLERANCES[dtype]
    losses = steps[f"{got}-losses"]
    assert losses.dtype == dtype
    assert len(np.unique(losses)) == len(losses)
    np.testing.assert_allclose(losses, steps[f"{one}-losses"], rtol=of_losses)
    expected = steps[f"{one}-parameters"]
    np.testing.assert_allclose(steps[f"{got}-parameters"], expected, rtol=0,
                               atol=of_parameters * np.abs(expected).max())
    assert (steps[f"{got}-cut"] > 0) == (mesh[1] > 1)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", WRAPPED_MESHES[1:], ids=lambda mesh: f"{mesh[0]}x{mesh[1]}")
def test_steps_of_another_network_are_those_of_one_device(steps, mesh):
    """Its BatchNorm sees the whole batch, too."""
    got, one = name_of("wrapped", *mesh), name_of("wrapped", *WRAPPED_MESHES[0])
    np.testing.assert_allclose(steps[f"{got}-losses"], steps[f"{one}-losses"], rtol=1e-5)
    expected = steps[f"{one}-parameters"]
    np.testing.assert_allclose(steps[f"{got}-parameters"], expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    assert (steps[f"{got}-cut"] > 0) == (mesh[1] > 1)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", JOINED_MESHES[1:], ids=lambda mesh: f"{mesh[0]}x{mesh[1]}")
@pytest.mark.parametrize("name", JOINED)
def test_steps_that_join_three_objectives_are_those_of_one_device(steps, name, mesh):
    got, one = name_of(name, *mesh), name_of(name, *JOINED_MESHES[0])
    assert len(np.unique(steps[f"{got}-losses"])) == len(steps[f"{got}-losses"])
    np.testing.assert_allclose(steps[f"{got}-losses"], steps[f"{one}-losses"], rtol=1e-10)
    expected = steps[f"{one}-parameters"]
    np.testing.assert_allclose(steps[f"{got}-parameters"], expected, rtol=0, atol=1e-10 * np.abs(expected).max())
