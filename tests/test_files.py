import errno
import os
import re
from pathlib import Path

import pytest

from morel_jax.files import DamagedFileError, local_path, read_json, reading, write_atomically


def test_local_path_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/a", "workdir") == tmp_path / "runs" / "a"
    assert local_path(Path("runs"), "workdir") == Path("runs")


@pytest.mark.parametrize(("path", "rule"), [
    ("", "must name a path; got an empty string"), ("  ", "must name a path; got spaces"),
    ("gs://bucket/run", "not a URL"), ("s3://bucket", "not a URL"),
    ("runs\\a", "backslash"), ("a\0b", "NUL"), ("~nobody-of-this-name/run", "no home folder")])
def test_local_path_refuses(path, rule):
    with pytest.raises(ValueError, match=f"workdir .*{rule}"):
        local_path(path, "workdir")


def test_reading_names_the_file_and_lets_the_system_speak(tmp_path):
    path = tmp_path / "a.gz"
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.gz"), reading(path, "is damaged"):
        pass
    path.write_bytes(b"x")
    for error, line in ((KeyError("key"), "is damaged: KeyError 'key'."), (EOFError(), "is damaged: EOFError."),
                        (ValueError("two\nlines"), "is damaged: two."), (ValueError(f"{path} is odd."), "is odd.")):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {line}')}$"), reading(path, "is damaged"):
            raise error
    with pytest.raises(OSError, match="No space left"), reading(path, "is damaged"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_write_syncs_the_file_before_its_rename_and_the_folder_after(monkeypatch, tmp_path):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("rename"), replace(old, new)))
    write_atomically(tmp_path / "a.json", "content")
    assert calls == [str(tmp_path / "a.json.tmp"), "rename", str(tmp_path)]
    assert (tmp_path / "a.json").read_text() == "content"
    write_atomically(tmp_path / "a.json", b"\x00\x01")
    assert (tmp_path / "a.json").read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(("content", "fault"), [
    (b"", "not valid JSON"), (b'{"a": ', "not valid JSON"), (b"\xff\xfe", "not valid JSON"),
    (b"[" * 100_000, "nested too deeply"), (b"[1]", "must hold a JSON object; got list"),
    (b"{}", "must have a field 'count' of type int; got nothing"),
    (b'{"count": "1"}', "'count' of type int; got str"), (b'{"count": true}', "'count' of type int; got bool")])
def test_read_json_names_file_fault_and_remedy(tmp_path, content, fault):
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as caught:
        read_json(path, "Delete it.", {"count": int})
    message = str(caught.value)
    assert str(path) in message
    assert fault in message
    assert message.endswith("Delete it.")


def test_read_json_reads(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"count": 3, "rate": 1}')
    assert read_json(path, "Delete it.", {"count": int, "rate": (int, float)}) == {"count": 3, "rate": 1}
