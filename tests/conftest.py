import fcntl
import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests.small import COMPILE_QUICKLY, as_users_compile

ROOT = Path(__file__).parent.parent


def pytest_configure(config):
    """Most tests compile much and run little: less optimisation. Those that guard numbers compile as users do."""
    gc.set_threshold(50_000)  # Tracing makes so many objects that looking for garbage often takes a tenth of the time.
    expression = config.option.markexpr
    if "not slow" in expression or "not numbers" in expression:
        # In front: of a flag given twice the last counts, which is the environment's or the package's own.
        os.environ["XLA_FLAGS"] = f"{COMPILE_QUICKLY} {os.environ.get('XLA_FLAGS', '')}"
    if "parity" in expression and "not parity" not in expression and not hasattr(config, "workerinput"):
        # ART's first import writes its settings; before the workers start, or one reads what another has half written.
        # In a process of its own: the import closes every log handler there is, and pytest's captured stderr with them.
        subprocess.run([sys.executable, "-c", "import art"], check=True)


# What guards numbers, or runs for longer than it compiles: as users compile with `-m numbers`, and what is fast of it
# with the fast tests too.
_NUMBERS = ("losses", "attacks", "evaluation/test_judge.py", "evaluation/test_pool.py", "training/test_fit.py",
            "parity/test_autoattack.py", "parity/test_nearest.py")
# Of these only the slow tests: they compare different programs, whose bits are equal only when compiled as users do.
_BITWISE = ("training/test_conditioned.py", "training/test_custom.py", "training/test_extras.py",
            "training/test_fit_population.py", "training/test_placement.py", "training/test_resumption.py")
# Of types and of bad input: no numbers.
_REFUSALS = ("attacks/test_checks.py", "attacks/test_inputs.py")


def pytest_itemcollected(item):
    path = item.path.relative_to(ROOT / "tests")
    name = path.as_posix()
    is_named = (name in _NUMBERS or path.parts[0] in _NUMBERS) and name not in _REFUSALS
    is_bitwise = name in _BITWISE and item.get_closest_marker("slow")
    if (is_named or is_bitwise) and not item.get_closest_marker("gpu"):
        item.add_marker("numbers")


def _shared_folder(tmp_path_factory, worker_id):
    """A folder of this run that all of its workers see."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory, worker_id):
    """Most tests compile a program that another has compiled: keep them for the run, all its workers and the processes
    that tests start.

    Where ``JAX_COMPILATION_CACHE_DIR`` names a folder, for the next run too.
    """
    folder = _shared_folder(tmp_path_factory, worker_id) / "compiled"
    settings = {"JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.5}  # Writing costs too.
    for name, value in settings.items():
        os.environ[name] = str(value)
        jax.config.update(name.lower(), value)


def _mapped_regions():
    """Memory regions of this process, which Linux limits (``vm.max_map_count``); 0 where the system does not say."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture(scope="module", autouse=True)
def _out_of_garbage_collection():
    """What JAX has traced stays; looking through it at each collection takes a tenth of the tests' time.

    Until its programs near the limit of 65,530 memory regions, beyond which XLA crashes: one has five to a thousand,
    and those of one module have had 27,000.
    """
    yield
    if _mapped_regions() > 15_000:
        gc.unfreeze()
        jax.clear_caches()
        gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory, worker_id):
    """(folder, standard output) of the quickstart's command, the README's first; run by one worker for all.

    Where ``MOREL_TEST_QUICKSTART`` names a folder, for the next run too.
    """
    named = os.environ.get("MOREL_TEST_QUICKSTART")
    folder = Path(named) if named else _shared_folder(tmp_path_factory, worker_id) / "quickstart"
    folder.mkdir(exist_ok=True)
    said = folder / "said.txt"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            outcome = subprocess.run([sys.executable, "-m", "morel_jax.quickstart", f"--workdir={folder}"], cwd=ROOT,
                                     text=True, capture_output=True, env=as_users_compile())
            assert outcome.returncode == 0, outcome.stderr
            said.write_text(outcome.stdout)
    return folder, said.read_text()
