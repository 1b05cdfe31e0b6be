"""Official archives: how a data set declares them, and how they are found, checked and downloaded."""
import contextlib
import dataclasses
import gzip
import hashlib
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from morel_jax.files import reading

# Class names, and {split: (images, labels)}: uint8[h, w, c] each, and integers.
Content = tuple[Sequence[str], Mapping[str, tuple[Iterable[np.ndarray], np.ndarray]]]
PROBE_SECONDS = 5.0
_MOST_CONTENT = 2**26  # Of a gzip file, in bytes; Fashion-MNIST's training images are 47 million.
_RETRIES = 2  # Of a download that breaks off.


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published file.

    Attributes:
        url: its address; the last part is the file's name.
        sha256: its published SHA-256, hexadecimal.
        content_sha256: SHA-256 of the content of a gzip file that others publish recompressed; or empty.
    """
    url: str
    sha256: str
    content_sha256: str = ""

    @property
    def file(self) -> str:
        """The name under which the archive is looked for in the user's folder."""
        return self.url.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A data set that is made from official archives.

    Attributes:
        name: by which it is loaded.
        image_shape: (h, w, c) of one image.
        num_train, num_test: numbers of images.
        read: the archives' paths -> (class names, {"train": (images, labels), "test": (images, labels)});
            images is an iterable of uint8[h, w, c], labels an integer array with one value per image.
        test_split: the publishers' name of the split to evaluate on.
    """
    name: str
    archives: tuple[Archive, ...]
    image_shape: tuple[int, int, int]
    num_train: int
    num_test: int
    num_classes: int
    read: Callable[[list[Path]], Content]
    test_split: str = "test"


def gunzip(path: Path) -> bytes:
    """The content of a gzip file.

    Raises:
        ValueError: the file is damaged, or larger than any archive here; names the file.
    """
    with reading(path, "is not a whole gzip file"), gzip.open(path) as file:
        content = file.read(_MOST_CONTENT + 1)
        if len(content) > _MOST_CONTENT:
            raise ValueError(f"it holds more than {_MOST_CONTENT} bytes")
    return content


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, archive: Archive) -> None:
    """Checks an archive that the user brought.

    Raises:
        ValueError: neither its SHA-256 nor that of its content is right; names file, expected and got.
    """
    got, content = _sha256(path), archive.content_sha256
    with contextlib.suppress(ValueError):  # Of a file that is no gzip.
        if got == archive.sha256 or (content and hashlib.sha256(gunzip(path)).hexdigest() == content):
            return
    also = f" (or content with SHA-256 {content})" if content else ""
    raise ValueError(f"Archive {path} must have SHA-256 {archive.sha256}{also}; got {got}. "
                     "It is damaged or another file; fetch it again.")


def obtain(name: str, archives: Sequence[Archive], downloads: Path, scratch: Path,
           archive_dir: Path | None = None) -> list[Path]:
    """The files of archives, with the declared SHA-256: the user's own, those downloaded before, or downloaded now.

    Args:
        downloads: the folder in which downloads are kept.
        scratch: an empty folder on the same file system, for downloads under way; empty again at the end.
        archive_dir: the user's folder.

    Raises:
        NotADirectoryError: `archive_dir` is no folder.
        ValueError: a file has another SHA-256; names file, expected and got.
        FileNotFoundError: an archive cannot be downloaded; names files, addresses, reasons and what to do. An
            unreachable network is detected within `PROBE_SECONDS`.
    """
    if archive_dir is not None and not archive_dir.is_dir():
        raise NotADirectoryError(f"archive_dir must be a folder with {', '.join(one.file for one in archives)}; "
                                 f"got {archive_dir}.")
    paths, missing = [], []
    for archive in archives:
        if archive_dir is not None and (archive_dir / archive.file).is_file():
            paths.append(archive_dir / archive.file)
            check(paths[-1], archive)
        else:
            paths.append(downloads / archive.file)
            if not paths[-1].is_file() or _sha256(paths[-1]) != archive.sha256:
                missing.append(archive)
    if missing:
        _require_reachable(name, missing)
        _download(name, missing, downloads, scratch)
    return paths


def _download(name: str, archives: Sequence[Archive], downloads: Path, scratch: Path) -> None:
    import pooch
    import requests

    fetcher = pooch.create(scratch, "", registry={archive.file: archive.sha256 for archive in archives},
                           urls={archive.file: archive.url for archive in archives}, retry_if_failed=_RETRIES)
    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=2**16)
    downloads.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        try:
            fetcher.fetch(archive.file, downloader=get)
        except requests.RequestException as error:
            raise _unobtainable(name, {archive: str(error)}) from error
        (scratch / archive.file).rename(downloads / archive.file)


def _require_reachable(name: str, archives: Sequence[Archive]) -> None:
    """Detects within `PROBE_SECONDS` what a download would wait for much longer."""
    reasons: dict[Archive, str | None] = dict.fromkeys(archives, f"no answer in {PROBE_SECONDS:g} s")

    def probe(archive: Archive) -> None:
        try:
            urllib.request.urlopen(archive.url, timeout=PROBE_SECONDS).close()
            reasons[archive] = None
        except urllib.error.HTTPError as error:
            reasons[archive] = str(error)
        except Exception as error:
            reasons[archive] = str(getattr(error, "reason", error))

    # Daemon threads, because a name server that does not answer outlives every timeout one can set.
    threads = [threading.Thread(target=probe, args=(archive,), daemon=True) for archive in archives]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(reasons.values()):
        raise _unobtainable(name, reasons)


def _unobtainable(name: str, reasons: Mapping[Archive, str | None]) -> FileNotFoundError:
    lines = "".join(f"\n  {archive.file}  from  {archive.url}" + (f"  ({reason})" if reason else "")
                    for archive, reason in reasons.items())
    return FileNotFoundError(
        f"Data set {name} is not on this machine and cannot be downloaded. Fetch what is named here on another "
        "machine, put it under the same name into a folder, and pass that folder as archive_dir; "
        f"'fashion_mnist_small' needs no download:{lines}")
