"""The ledger of an evaluation: one row per example and attack, in a CSV file that survives a kill at any moment."""
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from morel_jax.evaluation.identity import agree
from morel_jax.evaluation.pool import Finished
from morel_jax.evaluation.recheck import VIOLATIONS
from morel_jax.files import DamagedFileError, read_json, write_atomically


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of one attack on one example.

    Attributes:
        attack: name, without a comma or line break.
        index: place of the example in the data set.
        label: its class.
        clean_prediction: on the image itself.
        broken: 1 when misclassified, under the attack or already without it; else 0. A minimum-norm attack's image
            breaks its example if it is within the radius.
        prediction: on the attack's image, projected; -1 where the logits are NaN or infinite.
        distance: of that image from the clean one, in the evaluation's norm, a minimum-norm attack's also beyond the
            radius; 0 if the example was not attacked or nothing was found.
        steps: passes through the network that the attack took, or queries where it counts them.
        uint8_broken: as ``broken``, for the image rounded to 256 levels.
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
    def attacked(cls, attack: str, label: int, clean_prediction: int, finished: Finished) -> "Row":
        """The row of a :class:`~morel_jax.evaluation.pool.Finished` example."""
        found = finished.rechecked
        return cls(attack, finished.index, int(label), int(clean_prediction), int(found["broken"]),
                   int(found["prediction"]), float(str(found["distance"])), finished.steps,
                   int(found["rounded_broken"]), VIOLATIONS[int(found["violation"])])

    @classmethod
    def misclassified(cls, attack: str, index: int, label: int, clean_prediction: int) -> "Row":
        """The row of an example that needed no attack."""
        return cls(attack, int(index), int(label), int(clean_prediction), 1, int(clean_prediction), 0.0, 0, 1)


_FIELDS = [field.name for field in dataclasses.fields(Row)]
_TYPES: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Row)}
# Hexadecimal digits of a row's checksum, which is its last column.
_DIGITS = 8
_HEADER = ",".join([*_FIELDS, "check"])


def _may_come_later(setting: str) -> bool:
    """Whether a later evaluation in the same folder may add the setting, or leave it out."""
    return setting.startswith(("surrogate", "loss")) or "_program_" in setting


def _shown(value: Any) -> str:
    return f"[{value[0]:.6g}, …]" if isinstance(value, list) and value and isinstance(value[0], float) else repr(value)


class Ledger:
    """``ledger.csv`` and ``settings.json`` in a folder.

    Rows are appended as they come. A complete evaluation sorts them by attack and example, so the finished file does
    not depend on the order of the work. Each row has a checksum of itself and of the settings: a row that was changed,
    or belongs to other settings, is an error.

    Args:
        folder: made if it is not there.
        settings: dict of plain values on which every row depends.

    Raises:
        ValueError: the folder holds a ledger made with other settings; the message lists them.
        DamagedFileError: rows without settings, without checksums, or not as they were written; it names the line.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self._path, kept = self.folder / "ledger.csv", self.folder / "settings.json"
        lines = self._lines()
        settings = json.loads(json.dumps(settings))
        if kept.exists():
            stored = read_json(kept, "Put back a copy of it, or move the folder away and evaluate again.", fields={})
            different = [f"  {name}: {_shown(stored.get(name))} there, {_shown(settings.get(name))} now"
                         for name in sorted(stored.keys() | settings.keys())
                         if not agree(name, stored.get(name), settings.get(name))
                         and not (_may_come_later(name) and (name not in stored or name not in settings))]
            if different:
                raise ValueError(f"{self.folder} holds an evaluation with other settings; give another folder, move "
                                 "this one away, or use these values:\n" + "\n".join(different))
            settings |= stored
        elif lines:
            raise DamagedFileError(f"{self._path} has rows, but no settings.json beside it says what they were made "
                                   "with. Put that file back, give another folder, or move this one away.")
        self._key = hashlib.blake2b(json.dumps(
            {name: value for name, value in settings.items() if not _may_come_later(name)},
            sort_keys=True).encode()).digest()
        self._rows: dict[tuple[str, int], Row] = {}
        for number, line in enumerate(lines, 2):  # Line 1 is the header.
            row = self._parse(line, number)
            if self._rows.setdefault((row.attack, row.index), row) != row:
                raise DamagedFileError(f"{self._path}, line {number}: a second row for attack {row.attack}, image "
                                       f"{row.index}, which says something else. Delete both lines; the image is then "
                                       "attacked again.")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(settings, indent=1))
        self._write_all()

    def _lines(self) -> list[bytes]:
        """The file's whole rows, as bytes."""
        if not self._path.exists():
            return []
        # A kill may have left part of a line: one without a line break does not count.
        header, *lines = self._path.read_bytes().split(b"\n")[:-1] or [_HEADER.encode()]
        if header == ",".join(_FIELDS).encode():
            raise DamagedFileError(f"{self._path} was written by an earlier version of this library, without checksums "
                                   "of its rows. Give another folder, or move this one away and evaluate again.")
        if header != _HEADER.encode():
            raise DamagedFileError(f"{self._path}, line 1: the columns must be {_HEADER}; got {header[:200]!r}. "
                                   "Put that line back, or give another folder.")
        return lines

    def _parse(self, line: bytes, number: int) -> Row:
        text, _, check = line.rpartition(b",")
        if check != self._check(text):
            attack, index = (line.decode(errors="replace") + ",").split(",")[:2]
            raise DamagedFileError(
                f"{self._path}, line {number} (attack {attack[:40]!r}, image {index[:40]!r}) is not as it was written, "
                "or settings.json is not. Delete the line, and the image is attacked again; if every line is reported, "
                "put settings.json back or give another folder.")
        values = text.decode().split(",")
        return Row(**{name: _TYPES[name](value) for name, value in zip(_FIELDS, values, strict=True)})

    def _check(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._key, digest_size=_DIGITS // 2).hexdigest().encode()

    def _line(self, row: Row) -> bytes:
        text = ",".join(str(getattr(row, name)) for name in _FIELDS).encode()
        return text + b"," + self._check(text) + b"\n"

    def _write_all(self) -> None:
        write_atomically(self._path, _HEADER.encode() + b"\n" + b"".join(map(self._line, self._rows.values())))
        self._file = open(self._path, "ab")

    def add(self, rows: Iterable[Row]) -> None:
        """Appends rows, which a kill of the program then does not lose."""
        for row in rows:
            self._rows[row.attack, row.index] = row
            self._file.write(self._line(row))
        self._file.flush()

    def rows(self, attack: str) -> dict[int, Row]:
        """{index: Row} of an attack."""
        return {index: row for (name, index), row in self._rows.items() if name == attack}

    def sort(self, attacks: Iterable[str]) -> None:
        """Sorts the rows in the order of ``attacks``, then by index; attacks not named there come last, by name."""
        place = {name: number for number, name in enumerate(attacks)}
        order = sorted(self._rows, key=lambda key: (place.get(key[0], len(place)), key[0], key[1]))
        self._rows = {key: self._rows[key] for key in order}
        self._file.close()
        self._write_all()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
