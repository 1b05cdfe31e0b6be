"""A run's folder: its config, its metrics, and their readers."""
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from morel_jax import builders
from morel_jax.configuration import FIELDS, check, defaults, flatten, nested
from morel_jax.data.extra import all_files
from morel_jax.files import DamagedFileError, local_path, make_folder, read_json, write_atomically
from morel_jax.training.tensorboard import EventFile

_CONFIG_REMEDY = "Put back a copy of it: what was trained there cannot be used without."
# The least that is known of a data set.
_NO_DATA = {"image_shape": [], "num_classes": 0}
_VERSIONS_OF = ("morel_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def _commit() -> str | None:
    try:
        return subprocess.run(["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"], check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # Installed from a wheel: the version says what it is.


def _sha256(paths: str) -> str | None:
    """SHA-256 of a file of extra images; of several that of their own, one after another."""
    digests = []
    try:
        for path in all_files(paths):
            with open(path, "rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    except FileNotFoundError:
        return None  # Reading the images says so.
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def open_workdir(config: ConfigDict, workdir: str | os.PathLike, write: bool = True,
                 custom: dict[str, Any] | None = None) -> Path:
    """Makes the folder, or checks that the run in it has this config.

    Args:
        config: checked ConfigDict.
        workdir: path.
        write: whether this process is the one that writes; the others only check.
        custom: what tells custom parts apart, as :meth:`morel_jax.training.custom.CustomParts.record` gives it.

    Returns:
        The folder, in which ``config.json`` now is, if this process writes.

    Raises:
        ValueError: the folder holds a sweep, checkpoints without a config, or a run with another config; the message
            lists the fields that differ.
        DamagedFileError: ``config.json`` is damaged.
    """
    workdir = local_path(workdir, "workdir")
    make_folder(workdir)
    path = workdir / "config.json"
    if (workdir / "sweep.json").exists():
        raise ValueError(f"{workdir} holds a sweep; give a single run another workdir.")
    if path.exists():
        # A field that was added since the run began has its default, which leaves everything as it was.
        stored, given = flatten(load_config(workdir)), flatten(config)
        different = [f"  config.{field}: {stored.get(field)!r} there, {given.get(field)!r} given"
                     for field in sorted(stored.keys() | given.keys())
                     if stored.get(field) != given.get(field) and not FIELDS[field].may_differ]
        if stored["data.extra"] and given["data.extra"]:  # The file may be elsewhere, if it is the same.
            there, here = load_content(workdir).get("extra_sha256"), _sha256(config.data.extra)
            if there not in (None, here):
                different.append(f"  the file config.data.extra: SHA-256 {there} there, {here} given")
        elif stored["data.extra"] != given["data.extra"]:
            different.append(f"  config.data.extra: {stored['data.extra']!r} there, {given['data.extra']!r} given")
        stored, given = load_content(workdir).get("own", {}), custom or {}
        different += [f"  custom {part}: {stored.get(part)!r} there, {given.get(part)!r} given"
                      for part in sorted(stored.keys() | given.keys()) if stored.get(part) != given.get(part)]
        takes_part = config.validation.split == "holdout" or config.validation.examples
        if takes_part and load_content(workdir).get("splits_revision") != builders.SPLITS_REVISION:
            different.append("  the images of config.validation.holdout and examples: the last and first rows there, "
                             "which this version no longer takes; it takes each class in proportion")
        if different:
            raise ValueError(f"{workdir} holds a run with another config; give another workdir, or these values:\n"
                             + "\n".join(different))
    elif any(workdir.glob("checkpoints/*/*[0-9]")):
        raise ValueError(f"{workdir} has checkpoints but no config.json, which says what they were trained with; put "
                         "back a copy of it, or give another workdir.")
    elif write:
        content = {"config": config.to_dict(), "own": custom or {}, "commit": _commit(),
                   "versions": {name: metadata.version(name) for name in _VERSIONS_OF}}
        content["splits_revision"] = builders.SPLITS_REVISION
        if config.data.extra:
            content["extra_sha256"] = _sha256(config.data.extra)
        write_atomically(path, json.dumps(content, indent=1))
    return workdir


def open_sweep(changes: Mapping[str, dict[str, Any]], workdir: str | os.PathLike) -> Path:
    """Makes a sweep's folder, or checks that the sweep in it has these members.

    Args:
        changes: {member's name: its {"section.field": value}}.
        workdir: path.

    Returns:
        The folder, in which ``sweep.json`` now is.

    Raises:
        ValueError: the folder holds a single run, runs without a ``sweep.json``, or a sweep of other members.
        DamagedFileError: ``sweep.json`` is damaged.
    """
    workdir = local_path(workdir, "workdir")
    make_folder(workdir)
    path = workdir / "sweep.json"
    if (workdir / "config.json").exists():
        raise ValueError(f"{workdir} holds a single run; give a sweep another workdir.")
    if not path.exists():
        if any(workdir.glob("*/config.json")) or any(workdir.glob("*/checkpoints")):
            raise ValueError(f"{workdir} has runs in its folders but no sweep.json, which says whose members they are; "
                             "put back a copy of it, or give a sweep another workdir.")
        write_atomically(path, json.dumps(changes, indent=1))
    stored = read_json(path, "Put back a copy of it: it names the sweep's members.", fields={})
    different = ([f"  {name}: there, not given" for name in stored if name not in changes]
                 + [f"  {name}: given, not there" for name in changes if name not in stored])
    if different:
        raise ValueError(f"{workdir} holds a sweep of other members, and a sweep keeps those it began with; give "
                         "another workdir, or the same members:\n" + "\n".join(different))
    return workdir


def describe_data(workdir: Path, data: dict[str, Any]) -> None:
    """Adds to a run's ``config.json`` what it is trained on, where it does not say it: see ``Dataset.record``.

    Raises:
        ValueError: as :func:`check_data`.
    """
    content = load_content(workdir)
    check_data(workdir, content, data.get("sha256", ""))
    if "data" not in content:
        write_atomically(workdir / "config.json", json.dumps(content | {"data": data}, indent=1))


def check_data(workdir: Path, content: Mapping[str, Any], sha256: str) -> None:
    """Raises ValueError unless a user's own files are those that the run in ``workdir`` is trained on.

    Args:
        content: as :func:`load_content` returns it.
        sha256: the data set's.
    """
    there = content.get("data", {}).get("sha256", sha256)
    if there != sha256:
        raise ValueError(f"the files of config.data.name must be those that the run in {workdir} is trained on; SHA-256 "
                         f"{there} there, {sha256 or 'none'} now. Put them back, or give another workdir.")


def load_config(workdir: str | os.PathLike) -> ConfigDict:
    """The locked config of the run in ``workdir``; fields that were added since have their defaults.

    Raises:
        FileNotFoundError: no run there.
        DamagedFileError: its ``config.json`` is damaged.
    """
    config = nested(flatten(defaults()) | flatten(load_content(workdir)["config"]))
    try:
        check(config)
    except ValueError as error:
        path = local_path(workdir, "workdir") / "config.json"
        raise DamagedFileError(f"{path} is no config of this version: {error} {_CONFIG_REMEDY}") from None
    return config


def load_content(workdir: str | os.PathLike) -> dict[str, Any]:
    """All that the ``config.json`` in ``workdir`` says.

    Returns:
        ``config``, ``versions``, ``commit``; ``own``, what tells custom parts apart; and once data were read
        ``data``, what the run is trained on.

    Raises:
        FileNotFoundError: no run there.
        DamagedFileError: it is damaged.
    """
    path = local_path(workdir, "workdir") / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"no config.json in {workdir}: not a run's folder.")
    content = read_json(path, _CONFIG_REMEDY, {"config": dict, "versions": dict, "commit": (str, type(None))})
    own, data = content.get("own", {}), content.get("data", _NO_DATA)
    dataset = own.get("dataset", _NO_DATA) if isinstance(own, dict) else None
    for name, value in (("own", dataset), ("data", data)):
        if not isinstance(value, dict) or not _NO_DATA.keys() <= value.keys():
            raise DamagedFileError(f"{path} does not say in {name!r} what the run was given of its own, or trained on. "
                                   f"{_CONFIG_REMEDY}")
    return content


def load_divergence(workdir: str | os.PathLike) -> dict[str, int] | None:
    """{"epoch", "step"} at which the member of a sweep in ``workdir`` diverged, or None.

    Raises:
        DamagedFileError: its ``diverged.json`` is damaged.
    """
    path = local_path(workdir, "workdir") / "diverged.json"
    if not path.exists():
        return None
    return read_json(path, 'Put back a copy of it, or write {"epoch": 0, "step": 0} into it: the member stays ended.',
                     {"epoch": int, "step": int})


def write_metrics(workdir: Path, history: Sequence[dict[str, Any]]) -> None:
    """Brings ``metrics.jsonl`` up to ``history``, one line per epoch; an equal file is left alone."""
    path, content = workdir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history)
    if not path.exists() or path.read_bytes() != content.encode():
        write_atomically(path, content)


class MetricsWriter:
    """``metrics.jsonl``, one line per epoch, and TensorBoard events beside it; a context manager.

    The checkpoint's history is the truth. Both are written from it once it is on disk, so no kill leaves them apart.

    Args:
        workdir: the run's folder.
        config: for TensorBoard's HParams tab; None: without.
    """

    def __init__(self, workdir: Path, config: ConfigDict | None = None) -> None:
        self._workdir = workdir
        self._events = EventFile(workdir, None if config is None else flatten(config))

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self._events.close()

    def write(self, history: Sequence[dict[str, Any]]) -> None:
        """Brings both up to ``history``, a list of flat dicts.

        Its last entry is new, or the one that a resumed run starts with: a kill may have come between its checkpoint
        and its event. TensorBoard drops what an earlier try wrote from that step on.
        """
        write_metrics(self._workdir, history)
        self._events.write(history[-1]["step"], history[-1])
