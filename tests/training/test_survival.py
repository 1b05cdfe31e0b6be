"""Whole runs through what may befall them: damage, a full disk, signals, kills and each other."""
import logging
import os
import re
import signal
import subprocess
import sys
import time

import chex
import pytest

from morel_jax import builders, training
from morel_jax.training.lock import hold
from tests.small import newest_checkpoint, tiny_config, tiny_dataset, without_clocks
from tests.training.full_disk_run import FIRST_EPOCH
from tests.training.test_checkpoint import flip_a_byte

pytestmark = pytest.mark.usefixtures("tiny_data")
# A dispatch of about a second and a save, on a machine that does other things too.
GRACE_SECONDS = 20
# An epoch of half a minute and more: a signal in its first seconds finds no validation, which compiles before it asks.
COMMAND = [sys.executable, "-m", "morel_jax.train", "--config=configs/quickstart.py", "--config.batch_size=4",
           "--config.attack.num_steps=2", "--config.checkpoint.every_seconds=0.5"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "dataset", lambda config: tiny_dataset())
        return training.fit(tiny_config(), tmp_path_factory.mktemp("unbroken"), progress=False)


def goes_on_as_if_nothing_had_happened(workdir, unbroken):
    state, history = training.fit(tiny_config(), workdir, progress=False)
    chex.assert_trees_all_equal(state, unbroken[0])
    assert without_clocks(history) == without_clocks(unbroken[1])


def test_a_damaged_newest_checkpoint(unbroken, tmp_path, caplog):
    training.fit(tiny_config(), tmp_path, progress=False)
    newest = tmp_path / "checkpoints" / "last" / str(newest_checkpoint(tmp_path))
    flip_a_byte(newest)
    with caplog.at_level(logging.WARNING, "morel_jax"):
        goes_on_as_if_nothing_had_happened(tmp_path, unbroken)
    assert f"{newest} is damaged: " in caplog.text
    assert newest.exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_second_run_in_the_workdir_is_refused(unbroken, tmp_path):
    training.fit(tiny_config(), tmp_path, progress=False)
    with hold(tmp_path), pytest.raises(ValueError, match=f"{tmp_path} is in use by process {os.getpid()} on "):
        training.fit(tiny_config(), tmp_path, progress=False)
    goes_on_as_if_nothing_had_happened(tmp_path, unbroken)


@pytest.mark.slow
def test_a_full_disk(unbroken, tmp_path):
    outcome = subprocess.run([sys.executable, "-m", "tests.training.full_disk_run", tmp_path], text=True,
                             capture_output=True)
    assert outcome.returncode == 1
    assert re.fullmatch(r"error: the checkpoint .* could not be written \(.*\); the same command resumes from the one "
                        r"before\.\n", outcome.stdout), outcome.stdout + outcome.stderr
    assert newest_checkpoint(tmp_path) == FIRST_EPOCH
    goes_on_as_if_nothing_had_happened(tmp_path, unbroken)
    assert not list((tmp_path / "checkpoints").glob("*/*tmp*"))


def wait_for_a_checkpoint_after(position, workdir, process):
    deadline = time.monotonic() + 300
    while (newest_checkpoint(workdir) or 0) <= position:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stopped_at(process, workdir):
    """Sends SIGTERM; the step that the run says it saved, and its whole output."""
    began = time.monotonic()
    process.terminate()
    _, output = process.communicate()
    print(f"ended {time.monotonic() - began:.1f} s after SIGTERM")
    assert time.monotonic() - began < GRACE_SECONDS
    assert process.returncode == 128 + signal.SIGTERM
    step = int(re.search(rf"stopped and saved at step (\d+) in {workdir}; ", output)[1])
    assert newest_checkpoint(workdir) == step  # No validation is done yet.
    return step, output


@pytest.mark.slow
def test_sigterm_saves_within_the_grace_period(tmp_path):
    process = subprocess.Popen([*COMMAND, f"--workdir={tmp_path}"], text=True, stderr=subprocess.PIPE)
    wait_for_a_checkpoint_after(0, tmp_path, process)
    assert stopped_at(process, tmp_path)[0] > 0
