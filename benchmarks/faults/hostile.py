"""Hostile files, loaded in processes of their own: one line of error, within seconds, and little memory."""
import collections
import json
import tempfile
import time
from pathlib import Path

from benchmarks.faults.children import allow_memory

# Processor seconds that loading may take.
SECONDS = 5
# Bytes of address space and of memory that it may add.
_ADDRESS_SPACE, MEMORY = 8 * 2**30, 2**30
_TIMEOUT = 60


def corpus():
    """The files of ``tests/hostile.py``, each with a ``name``, ``make(folder) -> path`` and ``load(path)``."""
    from tests.hostile import FILES
    return list(FILES)


def _peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def load(number):
    """In the child: makes a file, loads it, and prints what came of it as a line of JSON."""
    file = corpus()[number]
    with tempfile.TemporaryDirectory() as folder:
        path = file.make(Path(folder))
        allow_memory(_ADDRESS_SPACE)
        before, began = _peak(), time.process_time()
        try:
            file.load(path)
            outcome, message = "loaded", ""
        except (ValueError, OSError, ImportError) as error:
            # What the commands print as one line.
            message = str(error)
            outcome = ("not one line" if len(message.splitlines()) != 1 else
                       "refused" if str(path) in message else "names no file")
        except BaseException as error:  # What a user sees as a traceback, exhausted memory and recursion among it.
            outcome, message = "traceback", f"{type(error).__name__}: {error}"[:500]
        seconds, grown = time.process_time() - began, _peak() - before
    if outcome == "refused" and seconds > SECONDS:
        outcome = "slow"
    if outcome == "refused" and grown > MEMORY:
        outcome = "takes memory"
    print(json.dumps({"name": file.name, "outcome": outcome, "message": message, "seconds": round(seconds, 2),
                      "bytes": grown}))


def case(children, folder, number):
    """One file: dict of plain values."""
    name = corpus()[number].name
    ended = children.start(load, (number,), folder).wait(_TIMEOUT)
    try:
        return json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"name": name, "outcome": "hang" if ended.hung else "crash", "stderr": ended.stderr[-2000:]}


def count(results):
    """Figures of a list of :func:`case` results: dict of plain values."""
    refused = [result for result in results if result["outcome"] == "refused"]
    return {"files": len(results), "refused": len(refused),
            "outcomes": dict(sorted(collections.Counter(result["outcome"] for result in results).items())),
            "most_seconds": max((result["seconds"] for result in refused), default=None),
            "most_bytes": max((result["bytes"] for result in refused), default=None)}
