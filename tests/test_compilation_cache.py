"""Where compiled programs are kept, and that a run never depends on them."""
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from morel_jax import compilation_cache
from morel_jax.compilation_cache import use_compilation_cache
from tests.commands import call

SETTINGS = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """JAX's own defaults, put back as they were; a home of this test's."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name, default in zip(SETTINGS, (None, -1, 1.0), strict=True):
        jax.config.update(name, default)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield lambda: tuple(getattr(jax.config, name) for name in SETTINGS)
    for name, value in before.items():
        jax.config.update(name, value)


def test_it_is_in_the_users_cache_folder_and_theirs_alone(settings, tmp_path):
    folder = use_compilation_cache()
    assert folder.parent == tmp_path / "cache" / "morel_jax" / "compiled"
    assert folder.stat().st_mode & 0o077 == 0
    assert settings() == (str(folder), 2 * 2**30, 0.1)


def test_another_folder_may_be_named(settings, tmp_path):
    assert use_compilation_cache(tmp_path / "mine").parent == tmp_path / "mine"
    jax.config.update("jax_compilation_cache_dir", None)
    with pytest.raises(ValueError, match="compilation_cache must be a path on a mounted file system"):
        use_compilation_cache("gs://bucket")


def test_what_jax_was_told_before_stays(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1.0")
    jax.config.update("jax_compilation_cache_max_size", 1000)
    folder = use_compilation_cache(tmp_path)
    assert settings() == (str(folder), 1000, 1.0)
    jax.config.update("jax_compilation_cache_dir", "chosen")
    assert use_compilation_cache(tmp_path) == Path("chosen")
    assert settings()[0] == "chosen"


def test_each_kind_of_processor_has_its_own(settings, tmp_path, monkeypatch):
    one = use_compilation_cache(tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation_cache, "_processor", lambda: "another")
    assert use_compilation_cache(tmp_path) == tmp_path / "another" != one


def _is_refused(settings, caplog, words):
    before = settings()
    with caplog.at_level(logging.WARNING):
        assert use_compilation_cache() is None
    (record,) = caplog.records
    assert "Compiled programs are not kept" in record.getMessage()
    assert words in record.getMessage()
    assert settings() == before


@pytest.mark.parametrize("home", ["/proc/home", "/dev/null/home"])
def test_a_folder_that_cannot_be_written_is_one_warning(settings, caplog, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    _is_refused(settings, caplog, f"{home}/morel_jax/compiled")


def test_no_home_is_one_warning(settings, caplog, monkeypatch):
    monkeypatch.setattr(compilation_cache, "user_cache", lambda: None)
    _is_refused(settings, caplog, "no home folder")


def test_a_full_disk_is_one_warning(settings, caplog, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_LEAST_FREE_BYTES", 2**60)
    _is_refused(settings, caplog, "MiB free")


def test_what_a_kill_cut_off_is_removed(settings, tmp_path):
    folder = use_compilation_cache(tmp_path)
    for name, time_of_use in (("whole", bytes(8)), ("cut", None), ("cut-later", b"")):
        (folder / f"{name}-cache").write_bytes(b"program")
        if time_of_use is not None:
            (folder / f"{name}-atime").write_bytes(time_of_use)
    jax.config.update("jax_compilation_cache_dir", None)
    use_compilation_cache(tmp_path)
    assert {path.name for path in folder.glob("*-*")} == {"whole-cache", "whole-atime"}


@pytest.mark.parametrize(("flag", "used"), [((), [None]), (("--compilation_cache=there",), ["there"]),
                                            (("--compilation_cache=off",), [])])
@pytest.mark.parametrize("command", ["train", "sweep", "evaluate", "quickstart", "reproduce"])
def test_commands_use_it_unless_told(monkeypatch, tmp_path, command, flag, used):
    asked = []
    monkeypatch.setattr(compilation_cache, "use_compilation_cache", asked.append)
    folder = "--root" if command == "reproduce" else "--workdir"
    config = ("--config=small",) if command in ("train", "sweep") else ()
    status, _, _ = call(monkeypatch, command, f"{folder}=gs://refused", *config, *flag)
    assert (status, asked) == (2, used)


STEP = """
import hashlib, json, sys
import jax, jax.monitoring
from morel_jax import use_compilation_cache
folder = use_compilation_cache()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.rsplit("/", 1)[1]))
from morel_jax.training import fit
from tests.small import small_config, small_dataset
state, history = fit(small_config(epochs=1), sys.argv[1], progress=False, dataset=small_dataset())
digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in map(jax.device_get, jax.tree.leaves(state)))).hexdigest()
print(json.dumps([str(folder), digest, hits.count("cache_hits"), hits.count("cache_misses")]))
"""


def _start(cache, workdir):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    # A program compiled within the least time is not kept, which a busy machine would decide.
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen([sys.executable, "-c", STEP, str(workdir)], cwd=Path(__file__).parents[1], text=True,
                            env=environment | {"XDG_CACHE_HOME": str(cache)}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def _end(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return *json.loads(out), err


@pytest.mark.slow
def test_a_second_start_gets_the_same_run_and_compiles_nothing(tmp_path):
    _, fresh, _, misses, _ = _end(_start(tmp_path / "cache", tmp_path / "a"))
    folder, cached, hits, missed, _ = _end(_start(tmp_path / "cache", tmp_path / "b"))
    assert misses > 0
    assert (cached, hits, missed) == (fresh, misses, 0)
    # Damaged entries, each in its own way: compiled anew, with the same result.
    for number, entry in enumerate(sorted(Path(folder).glob("*-cache"))):
        content = entry.read_bytes()
        middle = len(content) // 2
        entry.write_bytes([content[:middle], b"", bytes(len(content)),
                           content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]][number % 4])
    _, anew, _, _, err = _end(_start(tmp_path / "cache", tmp_path / "c"))
    assert anew == fresh
    assert "Error reading persistent compilation cache entry" in err


@pytest.mark.slow
def test_two_processes_at_once_share_it(tmp_path):
    processes = [_start(tmp_path / "cache", tmp_path / name) for name in "ab"]
    (_, one, *_), (_, other, *_) = map(_end, processes)
    assert one == other
