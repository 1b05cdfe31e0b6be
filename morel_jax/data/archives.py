"""The files that data sets are made from: those the user has, and whether the others can be fetched."""

import gzip
import hashlib
import threading
import time
import urllib.error
import urllib.request

from morel_jax.files import local_path, reading

PROBE_SECONDS = 5.0
_MOST_CONTENT = 2**26  # Of a gzip file, in bytes; Fashion-MNIST's training images are 47 million.


def file_name(url):
    """The name under which an archive is looked for in the user's folder."""
    return url.rsplit("/", 1)[-1]


def gunzip(path):
    """What a gzip file holds, as bytes.

    Raises:
        ValueError: it is damaged, or holds more than any archive here; names the file.
    """
    with reading(path, "is not a whole gzip file"), gzip.open(path) as file:
        content = file.read(_MOST_CONTENT + 1)
        if len(content) > _MOST_CONTENT:
            raise ValueError(f"it holds more than {_MOST_CONTENT} bytes")
    return content


def _content_sha256(path):
    try:
        return hashlib.sha256(gunzip(path)).hexdigest()
    except ValueError:
        return None


def check(path, sha256, content_sha256=None):
    """Checks an archive that the user brought.

    Args:
        path: the file.
        sha256: expected SHA-256 of the file, hexadecimal.
        content_sha256: SHA-256 of what the file holds, for a gzip file that may have been packed again.

    Raises:
        ValueError: neither fits; names file, expected and got.
    """
    with open(path, "rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got == sha256 or (content_sha256 and _content_sha256(path) == content_sha256):
        return
    also = f" (or content with SHA-256 {content_sha256})" if content_sha256 else ""
    raise ValueError(f"Archive {path} must have SHA-256 {sha256}{also}; got {got}. "
                     "It is damaged or another file; fetch it again.")


def find(urls, archive_dir):
    """Which archives lie in the user's folder.

    Args:
        urls: the archives' addresses; their last parts are the file names.
        archive_dir: folder, or None.

    Returns:
        {url: Path} of those found.

    Raises:
        NotADirectoryError: `archive_dir` is no folder.
    """
    if archive_dir is None:
        return {}
    folder = local_path(archive_dir, "archive_dir")
    if not folder.is_dir():
        raise NotADirectoryError(f"archive_dir must be a folder with {', '.join(map(file_name, urls))}; "
                                 f"got {folder}.")
    return {url: folder / file_name(url) for url in urls if (folder / file_name(url)).is_file()}


def _probe(url, reasons):
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
        reasons[url] = None
    except urllib.error.HTTPError as error:
        # 405 and 501: there is a server, and it merely dislikes HEAD.
        reasons[url] = None if error.code in (405, 501) else f"HTTP {error.code}"
    except Exception as error:
        reasons[url] = str(getattr(error, "reason", error))


def require_reachable(name, urls):
    """Refuses early what TFDS would retry for minutes.

    Args:
        name: the data set, for the message.
        urls: addresses to download from; all are asked at once, and `PROBE_SECONDS` bound the whole.

    Raises:
        FileNotFoundError: at least one does not answer; names files, addresses, reasons and what to do.
    """
    reasons = {}
    # Daemon threads, because a name server that does not answer outlives every timeout one can set.
    threads = [threading.Thread(target=_probe, args=(url, reasons), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    reasons = {url: reasons.get(url, f"no answer in {PROBE_SECONDS:g} s") for url in urls}
    if any(reasons.values()):
        lines = "".join(f"\n  {file_name(url)}  from  {url}" + (f"  ({reason})" if reason else "")
                        for url, reason in reasons.items())
        raise FileNotFoundError(
            f"Data set {name} is not on this machine and cannot be downloaded. Fetch what is named here on another "
            "machine, put it under the same name into a folder, and pass that folder as archive_dir; "
            f"'fashion_mnist_small' needs no download:{lines}")
