"""A run's folder: its config, its metrics, and their readers."""
import hashlib
import json
import subprocess
import time
from importlib import metadata
from pathlib import Path

import ml_collections
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from morel_jax import builders
from morel_jax.configuration import defaults
from morel_jax.files import write_atomically

# Where things lie and what is kept, not what is computed: these may change between a run and its resumption.
_MAY_DIFFER = ("data.data_dir", "data.archive_dir", "data.cache_dir", "data.placement", "data.extra",
               "checkpoint.every_seconds", "mesh.data", "mesh.fsdp", "mesh.fsdp_min_size", "model.remat")
_VERSIONS_OF = ("morel_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def _commit():
    try:
        return subprocess.run(["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"], check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # Installed from a wheel: the version says what it is.


def _sha256(path):
    if not Path(path).is_file():
        return None  # Reading the images says so.
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_workdir(config, workdir, write=True, own=None):
    """Makes the folder, or checks that the run in it has this config.

    Args:
        config: checked ConfigDict.
        workdir: path.
        write: whether this process is the one that writes; the others only check.
        own: what tells the caller's own parts apart, as :meth:`morel_jax.training.own.Own.record` gives it.

    Returns:
        Path of the folder, in which ``config.json`` now is, if this process writes.

    Raises:
        ValueError: the folder holds a sweep, or a run with another config; the message lists the fields that differ.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    if (workdir / "sweep.json").exists():
        raise ValueError(f"{workdir} holds a sweep; give a single run another workdir.")
    if path.exists():
        # A field that was added since the run began has its default, which leaves everything as it was.
        stored, given = builders.flatten(defaults()) | builders.flatten(load_config(workdir)), builders.flatten(config)
        different = [f"  config.{field}: {stored.get(field)!r} there, {given.get(field)!r} given"
                     for field in sorted(stored.keys() | given.keys())
                     if stored.get(field) != given.get(field) and field not in _MAY_DIFFER]
        if stored["data.extra"] and given["data.extra"]:  # The file may be elsewhere, if it is the same.
            there, here = _content(workdir).get("extra_sha256"), _sha256(config.data.extra)
            if there not in (None, here):
                different.append(f"  the file config.data.extra: SHA-256 {there} there, {here} given")
        elif stored["data.extra"] != given["data.extra"]:
            different.append(f"  config.data.extra: {stored['data.extra']!r} there, {given['data.extra']!r} given")
        stored, given = load_own(workdir), own or {}
        different += [f"  own {part}: {stored.get(part)!r} there, {given.get(part)!r} given"
                      for part in sorted(stored.keys() | given.keys()) if stored.get(part) != given.get(part)]
        takes_part = config.validation.split == "holdout" or config.validation.examples
        if takes_part and json.loads(path.read_text()).get("splits_revision") != builders.SPLITS_REVISION:
            different.append("  the images of config.validation.holdout and examples: the last and first rows there, "
                             "which this version no longer takes; it takes each class in proportion")
        if different:
            raise ValueError(f"{workdir} holds a run with another config; give another workdir, or these values:\n"
                             + "\n".join(different))
    elif write:
        content = {"config": config.to_dict(), "own": own or {}, "commit": _commit(),
                   "versions": {name: metadata.version(name) for name in _VERSIONS_OF}}
        content["splits_revision"] = builders.SPLITS_REVISION
        if config.data.extra:
            content["extra_sha256"] = _sha256(config.data.extra)
        write_atomically(path, json.dumps(content, indent=1))
    return workdir


def open_sweep(changes, workdir):
    """Makes a sweep's folder, or checks that the sweep in it has these members.

    Args:
        changes: {member's name: its {"section.field": value}}.
        workdir: path.

    Returns:
        Path of the folder, in which ``sweep.json`` now is.

    Raises:
        ValueError: the folder holds a single run, or a sweep of other members.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "sweep.json"
    if (workdir / "config.json").exists():
        raise ValueError(f"{workdir} holds a single run; give a sweep another workdir.")
    if not path.exists():
        write_atomically(path, json.dumps(changes, indent=1))
    stored = json.loads(path.read_text())
    different = ([f"  {name}: there, not given" for name in stored if name not in changes]
                 + [f"  {name}: given, not there" for name in changes if name not in stored])
    if different:
        raise ValueError(f"{workdir} holds a sweep of other members, and a sweep keeps those it began with; give "
                         "another workdir, or the same members:\n" + "\n".join(different))
    return workdir


def load_config(workdir):
    """The config of the run in ``workdir``, a locked ConfigDict.

    Raises:
        FileNotFoundError: no run there.
    """
    values = _content(workdir)["config"]

    def with_tuples(value):  # JSON knows lists only.
        if isinstance(value, dict):
            return {name: with_tuples(inner) for name, inner in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ml_collections.ConfigDict(with_tuples(values)).lock()


def load_own(workdir):
    """What tells apart the parts that the run in ``workdir`` took from its caller; empty where the config names all.

    Raises:
        FileNotFoundError: no run there.
    """
    return _content(workdir).get("own", {})


def _content(workdir):
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"no config.json in {workdir}: not a run's folder.")
    return json.loads(path.read_text())


class MetricsWriter:
    """``metrics.jsonl``, one line an epoch, and TensorBoard events beside it.

    The checkpoint's history is the truth; the file is written from it, so that no kill leaves the two apart.

    Args:
        workdir: Path of the run.
        history: what a resumed run starts with; TensorBoard drops what an earlier try wrote after it.
    """

    def __init__(self, workdir, history):
        self._path = workdir / "metrics.jsonl"
        # Not SummaryWriter: its thread dies of a full disk, and whoever waits for it then waits for ever.
        self._events = EventsWriter(str(workdir / "events"))
        # The last line is written again: a kill may have come between its checkpoint and its event.
        self._add_event(history[-1]["step"] if history else 0, session_log=SessionLog(status=SessionLog.START))
        if history:
            self.write(history)

    def _add_event(self, step, **content):
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))

    def write(self, history):
        """Brings both up to ``history``, a list of flat dicts, whose last entry is new."""
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in history))
        latest = history[-1]
        for name, value in latest.items():
            self._add_event(latest["step"], summary=scalar(name, value))
        self._events.flush()

    def close(self):
        """Ends the TensorBoard file."""
        self._events.close()
