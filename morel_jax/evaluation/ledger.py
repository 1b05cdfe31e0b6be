"""The ledger of an evaluation: one row an example and attack, in a CSV file that survives a kill at any moment."""
import csv
import dataclasses
import hashlib
import json
import os
from pathlib import Path

import jax
import numpy as np

from morel_jax.evaluation.judge import VIOLATIONS
from morel_jax.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of one attack on one example.

    Attributes:
        attack: name.
        index: place of the example in the data set.
        label: its class.
        clean_prediction: on the image itself.
        broken: 1 when misclassified, by the attack or already without it; else 0.
        prediction: on the image that the attack returned, re-projected.
        distance: of that image from the clean one, in the evaluation's norm; 0 for what was never attacked.
        steps: passes through the network that the attack took, queries where it counts them.
        uint8_broken: as ``broken``, the image rounded to 256 levels.
        violation: empty, or why the image does not count: nan, box or ball.
    """
    attack: str
    index: int
    label: int
    clean_prediction: int
    broken: int
    prediction: int
    distance: float
    steps: int
    uint8_broken: int
    violation: str = ""

    @classmethod
    def attacked(cls, attack, label, clean_prediction, finished):
        """The row of a :class:`~morel_jax.evaluation.pool.Finished` example."""
        verdict = finished.verdict
        return cls(attack, finished.index, int(label), int(clean_prediction), int(verdict["broken"]),
                   int(verdict["prediction"]), float(str(verdict["distance"])), finished.steps,
                   int(verdict["rounded_broken"]), VIOLATIONS[int(verdict["violation"])])

    @classmethod
    def misclassified(cls, attack, index, label, clean_prediction):
        """The row of an example that needed no attack."""
        return cls(attack, int(index), int(label), int(clean_prediction), 1, int(clean_prediction), 0.0, 0, 1)


_FIELDS = [field.name for field in dataclasses.fields(Row)]
_TYPES = {field.name: field.type for field in dataclasses.fields(Row)}


# What a later evaluation in the same folder may bring with it.
_MAY_COME_LATER = {"surrogate"}


class Ledger:
    """``ledger.csv`` and ``settings.json`` in a folder.

    Rows are appended as they come and put in order, by attack and example, when an attack is complete: so the file ends
    the same whichever way it came about.

    Args:
        folder: made when it is not there.
        settings: dict of plain values on which every row depends.

    Raises:
        ValueError: the folder holds a ledger made with other settings; the message lists them.
    """

    def __init__(self, folder, settings):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "ledger.csv"
        settings = json.loads(json.dumps(settings))
        kept = self.folder / "settings.json"
        if kept.exists():
            stored = json.loads(kept.read_text())
            different = [f"  {name}: {stored.get(name)!r} there, {settings.get(name)!r} now"
                         for name in sorted(stored.keys() | settings.keys()) if stored.get(name) != settings.get(name)
                         and not (name in _MAY_COME_LATER and (name not in stored or name not in settings))]
            if different:
                raise ValueError(f"{self.folder} holds an evaluation with other settings; give another folder, move "
                                 "this one away, or use these values:\n" + "\n".join(different))
            settings = stored | settings
        write_atomically(kept, json.dumps(settings, indent=1))
        self._rows = {(row.attack, row.index): row for row in self._read()}
        self._write_all()

    def _read(self):
        if not self._path.exists():
            return
        # A kill may have left a part of the last line: whatever has no end of line was never written.
        whole, _, _ = self._path.read_text(encoding="utf-8").rpartition("\n")
        for values in csv.DictReader(whole.splitlines()):
            yield Row(**{name: _TYPES[name](values[name]) for name in _FIELDS})

    def _write_all(self):
        lines = [",".join(_FIELDS)]
        lines += [",".join(str(getattr(row, name)) for name in _FIELDS) for row in self._rows.values()]
        write_atomically(self._path, "\n".join(lines) + "\n")
        self._file = open(self._path, "a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, rows):
        """Appends rows; after this a kill of the program does not lose them."""
        for row in rows:
            self._rows[row.attack, row.index] = row
            self._writer.writerow([getattr(row, name) for name in _FIELDS])
        self._file.flush()

    def rows(self, attack):
        """{index: Row} of an attack."""
        return {index: row for (name, index), row in self._rows.items() if name == attack}

    def sort(self, attacks):
        """Puts the rows in order: of ``attacks``, those not named there last by name, and of index."""
        place = {name: number for number, name in enumerate(attacks)}
        order = sorted(self._rows, key=lambda key: (place.get(key[0], len(place)), key[0], key[1]))
        self._rows = {key: self._rows[key] for key in order}
        self._file.close()
        self._write_all()

    def close(self):
        """Ends the file."""
        self._file.close()


class Images:
    """Adversarial images on disk: ``<attack>.npy``, float32[n, h, w, c], and ``<attack>_uint8.npy`` beside it.

    Row i belongs to example i; of an example that the attack was not run on it is zero.

    Args:
        folder: made when it is not there.
        attack: name.
        shape: (n, h, w, c).
    """

    def __init__(self, folder, attack, shape):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._arrays = [_mapped(folder / f"{attack}{ending}.npy", dtype, shape)
                        for ending, dtype in (("", np.float32), ("_uint8", np.uint8))]

    def add(self, finished):
        """Writes the images of a list of :class:`~morel_jax.evaluation.pool.Finished`."""
        # Mapped from the files: a kill of the program loses nothing that was written here.
        for one in finished:
            for array, name in zip(self._arrays, ("judged", "rounded"), strict=True):
                array[one.index] = one.verdict[name]


def _mapped(path, dtype, shape):
    if path.exists():
        array = np.load(path, mmap_mode="r+")
        if array.shape != tuple(shape) or array.dtype != dtype:
            raise ValueError(f"{path} holds {array.dtype}{array.shape}, not {np.dtype(dtype)}{tuple(shape)}; "
                             "move it away, or save the images of as many examples as before.")
        return array
    temporary = path.with_name(path.name + ".tmp")
    np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=tuple(shape)).flush()
    os.replace(temporary, path)
    return np.load(path, mmap_mode="r+")


def fingerprint(tree):
    """SHA-256 of a pytree of arrays: their places, shapes, types and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode() + leaf.tobytes())
    return digest.hexdigest()
