import dataclasses
import gzip
import hashlib
import http.server
import os
import socket
import time

import pytest

from morel_jax.data import archives
from morel_jax.data.archives import Archive

from . import made


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def at(address, *files):
    return [Archive(f"{address}/{file}", sha256(b"content of " + file.encode())) for file in files]


@pytest.fixture
def folders(tmp_path):
    """Of a server, for downloads, and for what is under way."""
    folders = [tmp_path / name for name in ("server", "downloads", "scratch")]
    for folder in folders:
        folder.mkdir()
    for file in ("a.zip", "b.zip"):
        (folders[0] / file).write_bytes(b"content of " + file.encode())
    return folders


def test_check(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(b"content", mtime=0))
    archives.check(path, Archive("", sha256(path.read_bytes())))
    archives.check(path, Archive("", "0" * 64, sha256(b"content")))
    got = sha256(path.read_bytes())
    with pytest.raises(ValueError, match=f"file.gz must have SHA-256 {'0' * 64}; got {got}"):
        archives.check(path, Archive("", "0" * 64))
    with pytest.raises(ValueError, match=f"0 .or content with SHA-256 {'1' * 64}.; got"):
        archives.check(path, Archive("", "0" * 64, "1" * 64))


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"x" * 99, mtime=0)[:-9]])
def test_check_of_what_is_no_gzip(tmp_path, content):
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(ValueError, match=f"got {sha256(content)}"):
        archives.check(tmp_path / "file.gz", Archive("", "0" * 64, sha256(b"content")))


def test_the_users_files_come_first_and_downloads_are_kept(folders):
    server, downloads, scratch = folders
    (server.parent / "own").mkdir()
    (server / "a.zip").rename(server.parent / "own" / "a.zip")
    with made.serve(server) as address:
        wanted = at(address, "a.zip", "b.zip")
        paths = archives.obtain("made", wanted, downloads, scratch, server.parent / "own")
    assert paths == [server.parent / "own" / "a.zip", downloads / "b.zip"]
    assert [path.read_bytes() for path in paths] == [b"content of a.zip", b"content of b.zip"]
    assert list(scratch.iterdir()) == []
    assert archives.obtain("made", wanted, downloads, scratch, server.parent / "own") == paths  # No server any more.


def test_a_damaged_download_is_fetched_again(folders):
    server, downloads, scratch = folders
    (downloads / "a.zip").write_bytes(b"content of a.zi")
    with made.serve(server) as address:
        (path,) = archives.obtain("made", at(address, "a.zip"), downloads, scratch)
    assert path.read_bytes() == b"content of a.zip"


def test_a_server_with_another_file(folders, monkeypatch):
    server, downloads, scratch = folders
    (server / "a.zip").write_bytes(b"other")
    monkeypatch.setattr(archives, "_RETRIES", 0)
    with made.serve(server) as address, pytest.raises(ValueError, match=r"a\.zip") as error:
        archives.obtain("made", at(address, "a.zip"), downloads, scratch)
    assert sha256(b"content of a.zip") in str(error.value)
    assert sha256(b"other") in str(error.value)
    assert list(downloads.iterdir()) == list(scratch.iterdir()) == []


class _BreakingOff(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(5))


def test_a_download_that_breaks_off(folders, monkeypatch):
    server, downloads, scratch = folders
    monkeypatch.setattr(archives, "_RETRIES", 1)
    with made.serve(server, _BreakingOff) as address:
        with pytest.raises(FileNotFoundError, match=r"Data set made .*\n  a.zip  from .*5 bytes read") as error:
            archives.obtain("made", at(address, "a.zip"), downloads, scratch)
    assert "pass that folder as archive_dir" in str(error.value)
    assert list(downloads.iterdir()) == list(scratch.iterdir()) == []


def test_archive_dir_must_be_a_folder(tmp_path):
    with pytest.raises(NotADirectoryError, match=r"must be a folder with a.zip, b.zip; got .*none"):
        archives.obtain("made", at("http://host", "a.zip", "b.zip"), tmp_path, tmp_path, tmp_path / "none")


def test_reachable(folders):
    server = folders[0]
    os.remove(server / "b.zip")
    with made.serve(server) as address:
        archives._require_reachable("made", at(address, "a.zip"))
        with pytest.raises(FileNotFoundError) as error:
            archives._require_reachable("made", at(address, "a.zip", "b.zip"))
    assert f"a.zip  from  {address}/a.zip\n" in str(error.value)
    assert f"b.zip  from  {address}/b.zip  (HTTP Error 404: File not found)" in str(error.value)
    assert "pass that folder as archive_dir" in str(error.value)


def test_refused_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(FileNotFoundError, match=r"Data set made .*\n  a.zip  from .*refused"):
        archives._require_reachable("made", at(f"http://127.0.0.1:{port}", "a.zip"))


def test_a_server_that_never_answers_takes_the_time_allowed(monkeypatch):
    monkeypatch.setattr(archives, "PROBE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        wanted = at(f"http://127.0.0.1:{server.getsockname()[1]}", "a", "b", "c", "d")
        start = time.monotonic()
        with pytest.raises(FileNotFoundError, match=r"\((no answer in 1 s|timed out)\)"):
            archives._require_reachable("made", wanted)
    assert time.monotonic() - start < 4


def test_an_archive_is_plain_data():
    archive = Archive("http://host/folder/a.zip", "0" * 64)
    assert archive.file == "a.zip"
    with pytest.raises(dataclasses.FrozenInstanceError):
        archive.sha256 = "1" * 64
