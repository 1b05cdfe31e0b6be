import os

import jax
import pytest


def pytest_configure(config):
    """The fast tests compile much and run little: less optimisation. The slow ones compile as users do."""
    if "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory, worker_id):
    """Most tests compile a program that another has compiled: keep them for the run and all its workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
