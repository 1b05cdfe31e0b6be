import json
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.small import COMPILE_QUICKLY, without_clocks
from tests.training.one_process import EPOCHS, STEPS

# How long the others may take to end after one process has died.
_SECONDS_TO_NOTICE = 150


def _free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def start(workdir, processes, devices):
    """The processes of a run, each with its own fake devices."""
    port = _free_port()
    return [subprocess.Popen([sys.executable, "-m", "tests.training.one_process", workdir, str(processes), str(number),
                              str(port), str(devices)], stderr=subprocess.PIPE, text=True)
            for number in range(processes)]


def finish(workdir, processes, devices):
    """Runs to the end; the final arrays."""
    running = start(workdir, processes, devices)
    messages = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * processes, "\n".join(messages)
    with np.load(workdir / "final.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def positions(workdir):
    """Numbers of the checkpoints that are whole."""
    return {int(path.name) for path in (workdir / "checkpoints" / "last").glob("[0-9]*") if path.name.isdigit()}


def wait_for_a_new_checkpoint(workdir, running):
    before = positions(workdir)
    while positions(workdir) <= before:
        assert all(process.poll() is None for process in running), running[0].communicate()[1]
        time.sleep(0.01)


def kill(running):
    for process in running:
        process.kill()
        process.communicate()


def history(workdir):
    return without_clocks(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("XLA_FLAGS", COMPILE_QUICKLY)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, _compiled):
    """Workdir and final arrays of a run of two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, finish(workdir, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_killed_processes_resume(tmp_path, unbroken, processes, devices):
    workdir, expected = tmp_path / "run", unbroken[1]
    running = start(workdir, processes, devices)
    wait_for_a_new_checkpoint(workdir, running)
    running[-1].kill()
    began = time.monotonic()
    for process in running[:-1]:
        process.communicate(timeout=_SECONDS_TO_NOTICE)
        assert process.returncode != 0
    print(f"{processes} processes: the others ended {time.monotonic() - began:.1f} s after one was killed")
    stopped_at = max(positions(workdir))
    running = start(workdir, processes, devices)
    wait_for_a_new_checkpoint(workdir, running)
    kill(running)
    assert stopped_at < max(positions(workdir)) < EPOCHS * (STEPS + 1)
    got = finish(workdir, processes, devices)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert history(workdir) == history(unbroken[0])


@pytest.mark.slow
def test_restored_into_another_number_of_processes(tmp_path, unbroken):
    """A finished run opened by others gives the saved arrays; one half done goes on, with other rounding."""
    source, expected = unbroken
    for processes, devices in ((1, 1), (4, 1), (1, 4)):
        copy = tmp_path / f"{processes}x{devices}"
        shutil.copytree(source, copy)
        (copy / "final.npz").unlink()
        for ours, theirs in zip(finish(copy, processes, devices), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    workdir = tmp_path / "changing"
    seen = []
    for processes, devices in ((4, 1), (1, 1), (2, 2)):
        running = start(workdir, processes, devices)
        wait_for_a_new_checkpoint(workdir, running)
        kill(running)
        seen.append(max(positions(workdir)))
    assert seen == sorted(set(seen)), seen
    got = finish(workdir, 1, 1)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
