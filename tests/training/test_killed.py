import random
import subprocess
import sys
import time

import chex
import pytest

from tests.training.killed_run import run

KILLS = 10


@pytest.mark.slow
def test_killed_ten_times_ends_bitwise_the_same(tmp_path, monkeypatch):
    """kill -9 at random moments: in the attack, the update, a save, the validation, or before anything began."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    moment = random.Random(0)
    command = [sys.executable, "-m", "tests.training.killed_run"]
    began = time.monotonic()
    subprocess.run([*command, tmp_path / "unbroken"], check=True)  # Fills the cache of compiled programs.
    subprocess.run([*command, tmp_path / "timed"], check=True)
    ran = time.monotonic() - began

    finished_early, positions = 0, []
    for _ in range(KILLS):
        process = subprocess.Popen([*command, tmp_path / "broken"], stderr=subprocess.DEVNULL)
        checkpoints = tmp_path / "broken" / "checkpoints" / "last"
        before = {path.name for path in checkpoints.glob("[0-9]*")}
        # From the moment it works again (a new checkpoint, or this long without one), a random time more.
        deadline = time.monotonic() + ran
        while ({path.name for path in checkpoints.glob("[0-9]*")} <= before and process.poll() is None
               and time.monotonic() < deadline):
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 3))
        finished_early += process.poll() is not None
        process.kill()
        process.wait()
        positions.append(max((int(path.name) for path in checkpoints.glob("[0-9]*") if path.name.isdigit()),
                             default=0))
    assert finished_early == 0, positions
    print(f"killed at positions {positions} of {12 * 24 + 12}")

    state, history = run(tmp_path / "broken")
    expected_state, expected_history = run(tmp_path / "unbroken")
    chex.assert_trees_all_equal(state, expected_state)
    assert len(history) == 12
    for line, expected in zip(history, expected_history, strict=True):
        assert {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} == {
            k: v for k, v in expected.items() if k not in ("seconds", "images_per_second")}
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 12
