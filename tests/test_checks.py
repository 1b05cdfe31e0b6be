import importlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import checks
from morel_jax.interop import torch_file


@pytest.mark.parametrize("value", [0, 2**32 - 1, np.int64(2**32 - 1), np.uint8(3)])
def test_seeds(value):
    assert checks.seed(value) == value
    assert type(checks.seed(value)) is int


@pytest.mark.parametrize(("value", "message"), [
    (2**32, "seed must be in 0 .. 4294967295; got 4294967296"), (-1, "got -1"),
    (True, "seed must be an integer; got True"), (1.0, "seed must be an integer; got 1.0"), ("1", "got '1'"),
    (None, "got None"),
])
def test_what_is_no_seed(value, message):
    with pytest.raises(ValueError, match=message):
        checks.seed(value)


def test_whole_numbers_without_an_upper_end():
    assert checks.whole_number("width", 10**30, 1) == 10**30
    with pytest.raises(ValueError, match="width must be at least 1; got 0"):
        checks.whole_number("width", 0, 1)


@pytest.mark.parametrize("value", [0.5, 1, 1e-6, np.float32(0.25), jnp.float32(0.25), np.array(0.5)])
def test_radii(value):
    assert checks.radius("epsilon", value, 1.0) == float(value)


@pytest.mark.parametrize("value", [0, -0.1, 1.01, np.nan, np.inf, 9e-7, True, "0.1", b"1", np.array([0.1])])
def test_what_is_no_radius(value):
    with pytest.raises(ValueError, match=r"epsilon must be in \[1e-06, 1\], all there is; got"):
        checks.radius("epsilon", value, 1.0, ", all there is")


@pytest.mark.parametrize("value", [None, [], {}, object(), 10**400])
def test_what_is_no_number_at_all(value):
    with pytest.raises(ValueError, match="epsilon must be in"):
        checks.radius("epsilon", value, 1.0)


@pytest.mark.parametrize(("name", "use"), [
    ("torch", lambda folder: torch_file.write(folder / "model.pt", {})),
    ("foolbox", lambda folder: importlib.import_module("morel_jax.interop.foolbox")),
    ("art", lambda folder: importlib.import_module("morel_jax.interop.art")),
])
def test_an_extra_that_is_not_installed_is_named(name, use, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"morel_jax.interop.{name}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {name}[.\w]*: pip install 'morel_jax\[{name}\]'\.$"):
        use(tmp_path)
    assert not any(tmp_path.iterdir())
