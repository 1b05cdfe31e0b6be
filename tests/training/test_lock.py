import errno
import fcntl
import logging
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

from morel_jax.training import lock
from morel_jax.training.lock import hold, was_left

# From its file: the package would import JAX.
HOLDER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("lock", sys.argv[2])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def held_by_another(workdir):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, workdir, lock.__file__],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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


def test_a_lock_file_that_is_deleted_lets_nobody_in(tmp_path):
    with hold(tmp_path):
        (tmp_path / ".lock").unlink()
        with pytest.raises(ValueError, match=f"{tmp_path} is in use by another process"), hold(tmp_path):
            pass


def test_where_only_files_can_be_locked(tmp_path, monkeypatch, caplog):
    """As over NFS."""
    flock = fcntl.flock

    def of_files(descriptor, operation):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", of_files)
    with hold(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()} on "), hold(tmp_path):
        pass
    assert not caplog.records


@pytest.mark.parametrize("workdir", ["", "gs://bucket/run", "runs\\a"])
def test_what_is_no_local_path_is_refused_before_anything_is_made(tmp_path, monkeypatch, workdir):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="workdir must"), hold(workdir):
        pass
    assert not os.listdir(tmp_path)


def test_a_killed_process_holds_nothing(tmp_path):
    process = held_by_another(tmp_path)
    with pytest.raises(ValueError, match=f"in use by process {process.pid} on "), hold(tmp_path):
        pass
    assert not was_left(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert was_left(tmp_path)
    with hold(tmp_path):
        assert not was_left(tmp_path)


@pytest.mark.parametrize("text", [
    None, "", "process 1 on another-host\n", "process {pid} on {host}", "process x on {host}\n",
    "process 99999999999999999999 on {host}\n", "process 1 on {host}\n"])
def test_who_may_still_be_there_has_not_left(tmp_path, text):
    """Nobody yet, no name, a process elsewhere, a name that is half written or wrong, one that lives."""
    if text is not None:
        (tmp_path / ".lock").write_text(text.format(pid=os.getpid(), host=socket.gethostname()))
    assert not was_left(tmp_path)


def test_a_process_of_another_user_has_not_left(tmp_path, monkeypatch):
    def kill(*_):
        raise PermissionError

    with hold(tmp_path):
        pass
    monkeypatch.setattr(os, "kill", kill)
    assert not was_left(tmp_path)


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
