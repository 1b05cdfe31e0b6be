"""What two folders that commands wrote must have in common, bit for bit."""
import hashlib
import json
import threading
import warnings
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

# Of a line of metrics.jsonl: how long it took.
CLOCKS = ("seconds", "images_per_second")
# Parts of names that only something unfinished has.
UNFINISHED = (".tmp", "-tmp", "incomplete", ".part")
# Written for people or other programs, with times in them.
_EVENTS = "events.out."
_CHECKPOINTS = "checkpoints"
_KEPT = {"last": 2, "best": 1}
_one_reader = threading.Lock()


def without_clocks(line):
    """A line of ``metrics.jsonl`` without what differs from run to run."""
    return {name: value for name, value in line.items() if name not in CLOCKS}


def is_unfinished(name):
    """Whether a file or folder of this name is one that a finished command must not leave."""
    # The cache builds an entry beside its place, as .<entry>.<random>.
    return any(part in name for part in UNFINISHED) or (name.startswith(".") and name != ".lock")


def is_content(name):
    """Whether a file of this relative Path is neither a lock nor TensorBoard's."""
    return name.name != ".lock" and not name.name.startswith(_EVENTS)


def snapshot(folder):
    """What a folder holds, to be compared with another.

    Checkpoints are compared by what they restore (the newest of each kind), metrics without their clocks, other files
    by their bytes. TensorBoard's events and ``.lock`` are left out, but for unfinished files.

    Args:
        folder: path; it may be missing.

    Returns:
        {name: comparable value}.
    """
    folder, found = Path(folder), {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if is_unfinished(path.name):
            found[str(name)] = "unfinished"
        elif path.name == _CHECKPOINTS and path.is_dir():
            found |= {f"{name}/{key}": value for key, value in _checkpoints(path).items()}
        elif path.is_file() and is_content(name) and _CHECKPOINTS not in name.parts:
            found[str(name)] = _content(path)
    return found


def differences(expected, got):
    """Names that differ between two snapshots, each with how."""
    found = []
    for name in sorted(expected.keys() | got.keys()):
        if name not in got:
            found.append(f"{name}: missing")
        elif name not in expected:
            found.append(f"{name}: left over")
        elif expected[name] != got[name]:
            found.append(f"{name}: {_how(expected[name], got[name])}")
    return found


def _how(expected, got):
    if isinstance(got, str) and not isinstance(expected, str):
        return got
    if isinstance(expected, dict) and isinstance(got, dict):
        return "other " + ", ".join(sorted(key for key in expected.keys() | got.keys()
                                           if expected.get(key) != got.get(key)))[:200]
    return "other content"


def _content(path):
    try:
        if path.name == "metrics.jsonl":
            return [without_clocks(json.loads(line)) for line in path.read_text().splitlines()]
        if path.name == "config.json":  # The checkout may have moved on since the run began.
            return json.loads(path.read_text()) | {"commit": ""}
    except (ValueError, AttributeError, LookupError, TypeError):
        return "unreadable"
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _checkpoints(folder):
    found = {}
    for which, kept in _KEPT.items():
        entries = list((folder / which).iterdir()) if (folder / which).is_dir() else []
        positions = sorted((path for path in entries if path.name.isdecimal()), key=lambda path: int(path.name))
        # How many of `last` there are, up to those that are kept, depends on where a run was resumed.
        found |= {f"{which}/{path.name}": "left over" for path in positions[:-kept]}
        if positions:
            found[which] = _checkpoint(positions[-1])
    return found


def _checkpoint(folder):
    """Position, record and arrays of one checkpoint; a line where it cannot be read."""
    found = {"position": folder.name}
    try:
        record = json.loads((folder / "record" / "metadata").read_text())
        found["record"] = record | {"history": [without_clocks(line) for line in record["history"]]}
        # An array without its sharding is read onto the one device there is, with a warning.
        with _one_reader, warnings.catch_warnings(), ocp.PyTreeCheckpointer() as reader:
            warnings.simplefilter("ignore")
            for item in ("classifier", "training"):
                if (folder / item).exists():
                    found |= {f"{item}{jax.tree_util.keystr(path)}": _array(leaf) for path, leaf in
                              jax.tree_util.tree_leaves_with_path(reader.restore(folder / item))}
    except Exception as error:  # Whatever Orbax's readers raise of a damaged one.
        return f"unreadable ({type(error).__name__})"
    return found


def _array(leaf):
    leaf = np.asarray(leaf)
    return str(leaf.dtype), leaf.shape, hashlib.sha256(leaf.tobytes()).hexdigest()
