"""Paths as a user gives them, files written whole and durably, and JSON read with one clear error."""
import contextlib
import errno
import importlib.machinery
import importlib.util
import json
import os
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
Fields = Mapping[str, type | tuple[type, ...]]


class DamagedFileError(ValueError):
    """A file is not what this library wrote there; the message names the file, what is wrong, and what to do."""


def local_path(path: Any, name: str) -> Path:
    """A user's path on this machine's file systems, with ``~`` expanded.

    Args:
        name: of the argument or flag that it was given for.

    Returns:
        The path; nothing is made or looked up.

    Raises:
        ValueError: it is empty or all spaces, a URL such as ``gs://...``, or holds a backslash or a NUL.
    """
    text = os.fspath(path or "")
    if not text.strip():
        raise ValueError(f"{name} must name a path; got {'spaces' if text else 'an empty string'} ('.' is the current "
                         "folder).")
    if _URL.match(text):
        raise ValueError(f"{name} must be a path on a mounted file system, not a URL; got {text!r}.")
    if "\\" in text or "\0" in text:
        # Orbax and TensorStore read a backslash as a separator: files would land in another folder.
        raise ValueError(f"{name} must not contain a backslash or NUL character; got {text!r}.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{name} begins with ~, but no home folder is known for it; got {text!r}.") from None


def user_cache() -> Path | None:
    """This library's folder for what may be deleted: ``$XDG_CACHE_HOME/morel_jax``, by default ``~/.cache/morel_jax``.

    The variable is taken only where it is absolute, as the XDG base directory specification has it. None where no home
    folder is known.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "morel_jax"
    except RuntimeError:
        return None


@contextlib.contextmanager
def reading(path: str | os.PathLike, fault: str, into_memory: bool = True) -> Iterator[None]:
    """Names the file in whatever a reader of some format raises inside the ``with`` block.

    Args:
        path: of a file or folder that others made.
        fault: what is then said of it, such as "is not a whole gzip file".
        into_memory: whether the reader takes in the whole file; False for one that maps it.

    Raises:
        ValueError: the reader raised anything but an error of the system; the message is one line, the reader's own
            where that names the file already. Or a file that is to be taken in is larger than the machine's memory, as
            one with holes may claim to be.
        FileNotFoundError: there is no such file; a pipe or device is none, as reading it may never end.
    """
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise FileNotFoundError(f"no file {path}.")
    size, memory = os.path.getsize(path), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if into_memory and size > memory:
        raise ValueError(f"{path} {fault}: it has {size} bytes, and this machine {memory} of memory.")
    try:
        yield
    except Exception as error:  # Of many kinds: zip's, pickle's, zlib's, numpy's, PIL's own.
        # What the system says, such as of a full disk, is no fault of the file.
        if getattr(error, "errno", None) is not None:
            raise
        text = str(error).strip()
        if isinstance(error, ValueError) and str(path) in text and "\n" not in text:
            raise
        reason = text.partition("\n")[0][:500]
        if not reason or isinstance(error, LookupError):  # Whose text is the key alone.
            reason = f"{type(error).__name__} {reason}".strip()
        raise ValueError(f"{path} {fault}: {reason.rstrip('.')}.") from error


def sync(path: str | os.PathLike) -> None:
    """Makes a file's content, or a folder's names (created, renamed, removed), outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems keep a folder's names by other means and know no fsync of it.
        if not os.path.isdir(path) or error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it that are not there; what it made outlives a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes ``content`` so that a reader, or a run after a kill or power cut, finds the old content or the new.

    Args:
        path: its folder must be there.
        content: a str is written as UTF-8.
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def parse_json(text: str | bytes, where: str | os.PathLike, remedy: str, fields: Fields | None = None) -> Any:
    """The value of JSON that this library wrote.

    Args:
        where: what the error names: a file, or a file and line.
        remedy: what the reader should do about damage: one sentence with a full stop.
        fields: None, or {name: type} that the value, an object, must have.

    Raises:
        DamagedFileError: it is no JSON, or lacks one of the fields.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise DamagedFileError(f"{where} is not valid JSON (nested too deeply). {remedy}") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them.
        raise DamagedFileError(f"{where} is not valid JSON ({error}). {remedy}") from None
    if fields is not None:
        if not isinstance(value, dict):
            raise DamagedFileError(f"{where} must hold a JSON object; got {type(value).__name__}. {remedy}")
        for name, kind in fields.items():
            given = value.get(name)
            # bool is an int to Python, and a number to nobody else.
            if not isinstance(given, kind) or (isinstance(given, bool) and kind is not bool):
                got = type(given).__name__ if name in value else "nothing"
                expected = " or ".join(one.__name__ for one in kind) if isinstance(kind, tuple) else kind.__name__
                raise DamagedFileError(f"{where} must have a field {name!r} of type {expected}; got {got}. {remedy}")
    return value


def read_json(path: str | os.PathLike, remedy: str, fields: Fields | None = None) -> Any:
    """:func:`parse_json` of a file.

    Raises:
        DamagedFileError: it is no JSON, or lacks one of the fields.
        OSError: it cannot be read.
    """
    return parse_json(Path(path).read_bytes(), path, remedy, fields)


def load_module(path: str | os.PathLike) -> types.ModuleType:
    """A Python file as a module; whatever the file raises comes through."""
    loader = importlib.machinery.SourceFileLoader("morel_jax_config", str(path))
    spec_of_file = importlib.util.spec_from_loader(loader.name, loader)
    assert spec_of_file is not None  # It is where there is a loader.
    module = importlib.util.module_from_spec(spec_of_file)
    loader.exec_module(module)
    return module
