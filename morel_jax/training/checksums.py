"""Sizes and hashes of a checkpoint's files, by which damage to them is found."""
import hashlib
import json

from morel_jax.files import write_atomically

NAME = "checksums.json"


def _blake2b(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def write(folder):
    """Writes ``checksums.json`` into ``folder``, a Path, once its other files are all there."""
    entries = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "blake2b": _blake2b(path)}
               for path in sorted(folder.rglob("*")) if path.is_file()}
    write_atomically(folder / NAME, json.dumps(entries, indent=1))


def exist(folder):
    """Whether ``folder``, a Path, has checksums; a kill right after Orbax's last act leaves a checkpoint without."""
    return (folder / NAME).exists()


def problem(folder):
    """What is wrong with the files in ``folder``, a Path.

    Returns:
        one line without a full stop, which names the file; None where all are as they were written, or where there
        are no checksums.
    """
    if not exist(folder):
        return None
    try:
        entries = json.loads((folder / NAME).read_text())
        for name, entry in entries.items():
            path = folder / name
            if not path.exists():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} must have {entry['bytes']} bytes; got {path.stat().st_size}"
            if _blake2b(path) != entry["blake2b"]:
                return f"{name} is not what was written: its BLAKE2b is another"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        # Each of these can come of a manifest that was cut or altered.
        return f"{NAME} is cut or altered"
    return None
