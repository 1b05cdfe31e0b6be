"""A run's folder: its config, its metrics, and their readers."""
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from morel_jax import builders
from morel_jax.configuration import check, defaults, flatten, nested
from morel_jax.files import DamagedFileError, local_path, make_folder, read_json, write_atomically
from morel_jax.training.resumption import compare, is_begun, other_parts, sha256_of
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


def open_workdir(config: ConfigDict, workdir: str | os.PathLike, write: bool = True,
                 custom: dict[str, Any] | None = None, init_from: Mapping[str, Any] | None = None,
                 say: Callable[[str], None] = lambda text: None) -> Path:
    """Makes the folder, or checks that the run in it may be resumed with this config.

    What may change is said by :func:`~morel_jax.training.resumption.compare`; ``config.json`` then has the new values,
    and the old ones under ``changes``. A folder in which nothing was trained yet takes any config.

    Args:
        config: checked ConfigDict.
        workdir: path.
        write: whether this process is the one that writes; the others only check.
        custom: what tells custom parts apart, as :meth:`morel_jax.training.custom.CustomParts.record` gives it.
        init_from: the run that a new one begins with, as :meth:`morel_jax.training.beginning.Beginning.record` gives
            it.
        say: called with the line that names the changes.

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
        changes, refused = compare(load_config(workdir), config, workdir)
        content = load_content(workdir)
        refused += other_parts(config, content, custom or {}, init_from)
        if not refused and not changes:
            return workdir
        if refused and is_begun(workdir):
            raise ValueError(f"{workdir} holds a run with another config; give another workdir (there --init_from="
                             f"{workdir} begins with this run's weights), or these values:\n" + "\n".join(refused))
        if is_begun(workdir):
            if write:
                content |= {"config": config.to_dict(), "changes": [*content.get("changes", []), changes]}
                write_atomically(path, json.dumps(content, indent=1))
            say("resumed with " + ", ".join(f"config.{field} {new!r} in place of {old!r}"
                                            for field, (old, new) in changes.items()))
            return workdir
    elif any(workdir.glob("checkpoints/*/*[0-9]")):
        raise ValueError(f"{workdir} has checkpoints but no config.json, which says what they were trained with; put "
                         "back a copy of it, or give another workdir.")
    if write:
        content = {"config": config.to_dict(), "own": custom or {}, "commit": _commit(),
                   "versions": {name: metadata.version(name) for name in _VERSIONS_OF}}
        content["splits_revision"] = builders.SPLITS_REVISION
        if config.data.extra:
            content["extra_sha256"] = sha256_of(config.data.extra)
        if init_from:
            content["init_from"] = init_from
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
        raise ValueError(f"the files of config.data.name must be those that the run in {workdir} is trained on; "
                         f"SHA-256 {there} there, {sha256 or 'none'} now. Put them back, or give another workdir.")


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
