import signal
import subprocess
import sys
import time

import pytest

from morel_jax.supervisor import newest_checkpoint, supervise

# Counts its own starts in a file, and ends the n-th one as the n-th argument says.
CHILD = """
import os, signal, sys
path, *endings = sys.argv[1:]
with open(path, "a+") as file:
    file.write("x")
    file.seek(0)
    start = len(file.read())
if (ending := endings[start - 1]).startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, ending))
sys.exit(int(ending))
"""

PARENT = """
import sys
from morel_jax.supervisor import supervise
child = '''
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("waiting", flush=True)
time.sleep(60)
'''
sys.exit(supervise([sys.executable, "-c", child], 5, lambda: None))
"""


def supervised(path, *endings, max_restarts=2, progress=lambda: None):
    """(exit status, starts) of a child with these endings."""
    status = supervise([sys.executable, "-c", CHILD, path, *map(str, endings)], max_restarts, progress)
    return status, len(path.read_text())


def test_a_crash_is_followed_by_a_restart(tmp_path, capfd):
    assert supervised(tmp_path / "starts", "SIGKILL", 1, 0) == (0, 3)
    assert capfd.readouterr().err.splitlines() == [
        "the run ended with signal SIGKILL; restart 1 of at most 2 without progress.",
        "the run ended with exit status 1; restart 2 of at most 2 without progress."]


@pytest.mark.parametrize(("ending", "status"), [
    (0, 0), (2, 2), (3, 3), (130, 130), (143, 143), ("SIGTERM", 143)])
def test_what_would_end_the_same_way_or_was_asked_for_is_not_repeated(tmp_path, ending, status, capfd):
    assert supervised(tmp_path / "starts", ending) == (status, 1)
    assert capfd.readouterr().err == ""


def test_it_gives_up_without_progress(tmp_path, capfd):
    assert supervised(tmp_path / "starts", *["SIGSEGV"] * 9) == (128 + signal.SIGSEGV, 3)
    assert capfd.readouterr().err.splitlines()[-1] == (
        "error: the run ended with signal SIGSEGV after 2 restarts without progress.")


def test_progress_starts_the_count_anew(tmp_path):
    starts = tmp_path / "starts"
    starts.touch()
    # The child makes progress in its first three starts.
    assert supervised(starts, *[1] * 9, progress=lambda: min(len(starts.read_text()), 3)) == (1, 5)


def test_sigterm_reaches_the_child_and_ends_both():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"waiting\n"
    began = time.monotonic()
    parent.terminate()
    assert parent.wait() == 143
    assert time.monotonic() - began < 30
    assert parent.stdout.read() == b""


def test_newest_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for name in ("9", "12", "13.orbax-checkpoint-tmp", "other"):
        (tmp_path / "checkpoints" / "last" / name).mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == 12


def test_it_needs_no_jax():
    code = "import sys, morel_jax.supervisor; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
