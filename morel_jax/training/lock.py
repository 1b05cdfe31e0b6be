"""One run at a time in a workdir."""
import contextlib
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from morel_jax.files import local_path, make_folder

_NAME = ".lock"
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(workdir: str | os.PathLike) -> Iterator[None]:
    """Keeps other runs out of ``workdir``, which is made if it is not there, while the ``with`` block lasts.

    It is a lock of the operating system, which ends with the process however that ends: on the folder, which cannot be
    removed from under a run as a file can, and on ``<workdir>/.lock``, because NFS locks files alone. The file stays
    and means nothing by itself. It holds between hosts where the file system's locks do: over NFS from Linux 2.6.12 on,
    over Lustre mounted with ``flock``. Reading, as evaluation does, needs no lock.

    Raises:
        ValueError: another process has it; the message names the process.
        OSError: the folder cannot be made or written.
    """
    workdir = local_path(workdir, "workdir")
    with contextlib.ExitStack() as stack:
        try:
            make_folder(workdir)
            file = stack.enter_context(open(workdir / _NAME, "a+"))
            folder = os.open(workdir, os.O_RDONLY)
        except OSError as error:
            raise OSError(f"workdir must be a folder that can be written; got {workdir}: {error.strerror}.") from error
        stack.callback(os.close, folder)
        failed = []
        for descriptor in (folder, file.fileno()):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise ValueError("workdir must be used by one run at a time; "
                                 f"{workdir} is in use by {holder}.") from None
            except OSError as error:
                failed.append(error.strerror)
        if len(failed) == 2:
            _logger.warning("%s cannot be locked (%s): see to it that no other run uses it.", workdir, failed[1])
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def was_left(workdir: Path) -> bool:
    """Whether the process that last held ``workdir`` is known to have ended: it was one of this host, and is gone.

    Takes no lock, which a run that starts just then would find taken.
    """
    try:
        text = (workdir / _NAME).read_text(errors="replace")
    except OSError:
        return False
    process = re.fullmatch(r"process (\d{1,9}) on (.+)\n", text)
    if process is None or process[2] != socket.gethostname():
        return False
    try:
        os.kill(int(process[1]), 0)  # Sends nothing.
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # It is another user's.
    return False
