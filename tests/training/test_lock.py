import errno
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys

import pytest

from morel_jax.training.lock import hold

HOLDER = """
import sys
from morel_jax.training.lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def held_by_another(workdir):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, workdir], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_holder_is_refused_and_told_who_is_there(tmp_path):
    workdir = tmp_path / "a" / "b"
    with hold(workdir), pytest.raises(ValueError, match="one run at a time") as error:
        with hold(workdir):
            pass
    assert str(error.value).endswith(f"{workdir} is in use by process {os.getpid()} on {socket.gethostname()}.")
    with hold(workdir):
        assert (workdir / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_killed_process_holds_nothing(tmp_path):
    process = held_by_another(tmp_path)
    with pytest.raises(ValueError, match=f"in use by process {process.pid} on "), hold(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with hold(tmp_path):
        pass


@pytest.mark.parametrize("parent", ["/proc", "file"])
def test_a_folder_that_cannot_be_written(tmp_path, parent):
    """Not even root can make a folder in /proc, or one below a file."""
    (tmp_path / "file").touch()
    workdir = tmp_path / parent / "run"  # An absolute second part replaces the first.
    with pytest.raises(OSError, match=f"workdir must be a folder that can be written; got {workdir}: "):
        with hold(workdir):
            pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), hold(tmp_path):
        pass
    assert f"{tmp_path} cannot be locked (No locks available)" in caplog.text
