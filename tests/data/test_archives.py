import gzip
import hashlib
import http.server
import socket
import time

import pytest

from morel_jax.data import archives

from . import made


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_check(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(b"content", mtime=0))
    archives.check(path, sha256(path.read_bytes()))
    archives.check(path, "0" * 64, sha256(b"content"))
    got = sha256(path.read_bytes())
    with pytest.raises(ValueError, match=f"file.gz must have SHA-256 {'0' * 64}; got {got}"):
        archives.check(path, "0" * 64)
    with pytest.raises(ValueError, match=f"0 .or content with SHA-256 {'1' * 64}.; got"):
        archives.check(path, "0" * 64, "1" * 64)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"x" * 99, mtime=0)[:-9]])
def test_check_of_what_is_no_gzip(tmp_path, content):
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(ValueError, match=f"got {sha256(content)}"):
        archives.check(tmp_path / "file.gz", "0" * 64, sha256(b"content"))


def test_find(tmp_path):
    (tmp_path / "b.zip").touch()
    urls = ["http://host/a.zip", "http://host/b.zip"]
    assert archives.find(urls, None) == {}
    assert archives.find(urls, str(tmp_path)) == {urls[1]: tmp_path / "b.zip"}
    with pytest.raises(NotADirectoryError, match=r"must be a folder with a.zip, b.zip; got .*none"):
        archives.find(urls, tmp_path / "none")


def test_reachable(tmp_path):
    (tmp_path / "a.zip").touch()
    with made.serve(tmp_path) as address:
        archives.require_reachable("made", [f"{address}/a.zip"])
        with pytest.raises(FileNotFoundError) as error:
            archives.require_reachable("made", [f"{address}/a.zip", f"{address}/b.zip"])
    assert f"a.zip  from  {address}/a.zip\n" in str(error.value)
    assert f"b.zip  from  {address}/b.zip  (HTTP 404)" in str(error.value)
    assert "pass that folder as archive_dir" in str(error.value)


class _NoHead(http.server.SimpleHTTPRequestHandler):
    do_HEAD = None  # The standard library answers a missing method with 501.

    def log_message(self, *args):
        pass

    def __getattribute__(self, name):
        if name == "do_HEAD":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_a_server_that_dislikes_head_is_reachable(tmp_path):
    with made.serve(tmp_path, _NoHead) as address:
        archives.require_reachable("made", [f"{address}/a.zip"])


def test_refused_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(FileNotFoundError, match=r"Data set made .*\n  a.zip  from .*refused"):
        archives.require_reachable("made", [f"http://127.0.0.1:{port}/a.zip"])


def test_a_server_that_never_answers_takes_the_time_allowed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}/{file}" for file in "abcd"]
        start = time.monotonic()
        with pytest.raises(FileNotFoundError, match=r"\((no answer in 5 s|timed out)\)"):
            archives.require_reachable("made", urls)
    assert time.monotonic() - start < 8
