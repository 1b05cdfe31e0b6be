"""One run at a time in a workdir."""
import contextlib
import fcntl
import logging
import os
import socket
from pathlib import Path

_NAME = ".lock"
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(workdir):
    """Keeps other runs out of ``workdir``, which is made if it is not there, while the ``with`` block lasts.

    It is a lock of the operating system on ``<workdir>/.lock``, which ends with the process however that ends; the file
    stays and means nothing by itself. It holds between hosts where the file system's locks do: over NFS from Linux
    2.6.12 on, over Lustre mounted with ``flock``. Reading, as evaluation does, needs no lock.

    Raises:
        ValueError: another process has it; the message names the process.
        OSError: the folder cannot be made or written.
    """
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / _NAME, "a+")
    except OSError as error:
        raise OSError(f"workdir must be a folder that can be written; got {workdir}: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(f"workdir must be used by one run at a time; {workdir} is in use by {holder}.") from None
        except OSError as error:
            _logger.warning("%s cannot be locked (%s): see to it that no other run uses it.", workdir, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
