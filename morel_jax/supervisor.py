"""A command that is started again when it crashes. Imports no JAX: the waiting parent needs no memory for it."""
import signal
import subprocess
import sys
from pathlib import Path

# Done; wrong input or a folder that cannot be used; diverged: the same command would end the same way. 128 + a signal
# that asked it to stop.
_FINAL = (0, 2, 3, 128 + signal.SIGINT, 128 + signal.SIGTERM)


def newest_checkpoint(workdir):
    """Position of the newest checkpoint from which a run would go on, or None."""
    folder = Path(workdir) / "checkpoints" / "last"
    return max((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()), default=None)


def _describe(status):
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def supervise(command, max_restarts, progress):
    """Runs a command, and again after each crash: an unknown exit status, or a signal that nobody sent to stop it.

    SIGINT and SIGTERM are passed on to the command, which is then not started again.

    Args:
        command: list of str.
        max_restarts: after so many in a row without progress it gives up.
        progress: function without arguments, whose value has changed after progress.

    Returns:
        the command's last exit status; 128 + its number for a signal.
    """
    asked = []

    def stop(number, frame):
        del frame
        asked.append(number)
        if child is not None:
            child.send_signal(number)

    child = None
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        restarts, before = 0, progress()
        while True:
            child = subprocess.Popen(command)
            if asked:  # While there was no child to pass it on to.
                child.send_signal(asked[0])
            status = child.wait()
            code = 128 - status if status < 0 else status
            if asked or code in _FINAL:
                return code
            now = progress()
            restarts, before = restarts if now == before else 0, now
            if restarts == max_restarts:
                print(f"error: the run ended with {_describe(status)} after {max_restarts} restarts without progress.",
                      file=sys.stderr)
                return code
            restarts += 1
            print(f"the run ended with {_describe(status)}; restart {restarts} of at most {max_restarts} without "
                  "progress.", file=sys.stderr, flush=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
