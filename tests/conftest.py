import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """Most tests compile a program that another has compiled: keep them for the session."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
