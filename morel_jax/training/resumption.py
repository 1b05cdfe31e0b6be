"""What may change when a run is resumed, and what may not."""
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from morel_jax import builders
from morel_jax.configuration import FIELDS, flatten
from morel_jax.data.extra import all_files
from morel_jax.data.sources import own_place
from morel_jax.optimizer import learning_rate
from morel_jax.training import saved

# What only the rate of an epoch is computed from, and the end of the run.
_SCHEDULE = ("epochs", "optimizer.drop_epochs", "optimizer.drop_factors")


def is_begun(workdir: Path) -> bool:
    """Whether anything was trained in a run's folder; if not, nothing is lost by another config."""
    return (any(workdir.glob("checkpoints/*/*[0-9]")) or (workdir / "metrics.jsonl").exists()
            or (workdir / "diverged.json").exists())


def _epochs_begun(workdir: Path) -> int:
    """How many epochs the newest checkpoint has steps of, among those whose record can be read.

    Raises:
        CheckpointError: there are checkpoints, and none can.
    """
    folder, error = saved.folder_of(workdir) / "last", None
    for position in reversed(saved.positions_in(folder)):
        try:
            history = saved.read_record(folder / str(position))["history"]
        except saved.CheckpointError as damage:
            error = damage
            continue
        steps = position - len(history)
        return len(history) + (steps > (history[-1]["step"] if history else 0))
    if error is not None:
        raise error
    return 0


def _trained_otherwise(stored: ConfigDict, given: ConfigDict, begun: int) -> str:
    """Why what was trained already would have been trained otherwise; empty if it would not."""
    if given.epochs < begun:
        return f"{begun} epochs are begun or finished"
    for epoch in range(1, begun + 1):
        # At two places of the epoch, as some rates change by step.
        there, here = ([learning_rate(config, epoch, step, 2) for step in (0, 1)] for config in (stored, given))
        if there != here:
            return f"epoch {epoch} was trained with a rate of {there[0]:.6g}, which would be {here[0]:.6g}"
    return ""


def _are_own(*names: str) -> bool:
    """Whether these are one's own images in files of one form."""
    forms = [place and place[0] for place in map(own_place, names)]
    return None not in forms and len(set(forms)) == 1


def compare(stored: ConfigDict, given: ConfigDict, workdir: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """({"section.field": [value there, value given]} of what may change, a line for each field that may not).

    A field may change that says where things are or how often they are saved, and not what is computed; so may the
    number of epochs and the drops of the rate, as long as every epoch that is begun keeps its rate. A user's own images
    may lie elsewhere; whether they are the same is found out when they are read.

    Args:
        stored: config of the run in ``workdir``.
        given: the one that it is to be resumed with.
    """
    there, here = flatten(stored), flatten(given)
    changed = {field: [there.get(field), here.get(field)] for field in sorted(there.keys() | here.keys())
               if there.get(field) != here.get(field)}
    may, refused, reason = {}, [], ""
    if any(field in _SCHEDULE for field in changed):
        reason = _trained_otherwise(stored, given, _epochs_begun(workdir))
    for field, (old, new) in changed.items():
        goes_on = field in _SCHEDULE and not reason
        if FIELDS[field].may_differ or goes_on or (field == "data.name" and _are_own(str(old), str(new))):
            may[field] = [old, new]
        else:
            refused.append(f"  config.{field}: {old!r} there, {new!r} given"
                           + (f" ({reason})" if field in _SCHEDULE else ""))
    return may, refused


def sha256_of(paths: str) -> str | None:
    """SHA-256 of a file of extra images; of several that of their own, one after another."""
    digests = []
    try:
        for path in all_files(paths):
            with open(path, "rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    except FileNotFoundError:
        return None  # Reading the images says so.
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def other_parts(config: ConfigDict, content: Mapping[str, Any], custom: dict[str, Any],
                 init_from: Mapping[str, Any] | None) -> list[str]:
    """A line for each thing beside the config's fields in which a run differs from what it is to be resumed with.

    Args:
        config: it is to be resumed with; the others likewise, as in :func:`~morel_jax.training.workdir.open_workdir`.
        content: of its ``config.json``.
    """
    different = []
    there, here = content["config"].get("data", {}).get("extra", ""), config.data.extra
    if there and here:  # The file may be elsewhere, if it is the same.
        there, here = content.get("extra_sha256"), sha256_of(here)
        if there not in (None, here):
            different.append(f"  the file config.data.extra: SHA-256 {there} there, {here} given")
    elif there != here:
        different.append(f"  config.data.extra: {there!r} there, {here!r} given")
    own = content.get("own", {})
    different += [f"  custom {part}: {own.get(part)!r} there, {custom.get(part)!r} given"
                  for part in sorted(own.keys() | custom.keys()) if own.get(part) != custom.get(part)]
    takes_part = config.validation.split == "holdout" or config.validation.examples
    if takes_part and content.get("splits_revision") != builders.SPLITS_REVISION:
        different.append("  the images of config.validation.holdout and examples: the last and first rows there, "
                         "which this version no longer takes; it takes each class in proportion")
    if content.get("init_from") != init_from:
        different.append(f"  init_from: {content.get('init_from')} there, {init_from} given")
    return different
