"""Sizes and hashes of a folder's files, by which damage to them is found: of checkpoints and of cached data."""
import hashlib
import io
import json
import os
from pathlib import Path

from morel_jax.files import sync, write_atomically

NAME = "checksums.json"


def _blake2b(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "blake2b").hexdigest()


def write(folder: Path) -> None:
    """Writes ``checksums.json`` into ``folder`` once its other files are all there.

    All of it then survives a power cut, except the folder's own name in its parent.
    """
    entries = {}
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_file() and path != folder / NAME:
            with open(path, "rb") as file:
                entries[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "blake2b": _blake2b(file)}
                os.fsync(file.fileno())
    for path in paths:
        if path.is_dir():
            sync(path)
    write_atomically(folder / NAME, json.dumps(entries, indent=1))


def problem(folder: Path, part: str = "") -> str | None:
    """What is wrong with the files in ``folder``.

    Args:
        folder: where :func:`write` was called.
        part: only files whose relative names begin with this are read.

    Returns:
        One line without a full stop, which names the file; None where all are as they were written.
    """
    try:
        entries = json.loads((folder / NAME).read_bytes())
        if not entries:
            return f"{NAME} is cut or altered"
        for name, entry in entries.items():
            path = folder / name
            if not name.startswith(part):
                continue
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} must have {entry['bytes']} bytes; got {path.stat().st_size}"
            with open(path, "rb") as file:
                if _blake2b(file) != entry["blake2b"]:
                    return f"{name} is not what was written: its BLAKE2b is another"
    except FileNotFoundError:
        return f"{NAME} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Each of these can come from a manifest that was cut or altered.
        return f"{NAME} is cut or altered"
    return None
