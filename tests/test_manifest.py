import json
import os

import pytest

from morel_jax import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "item" / "d").mkdir(parents=True)
    (tmp_path / "item" / "d" / "data").write_bytes(b"abc")
    (tmp_path / "metadata").write_bytes(b"")
    manifest.write(tmp_path)
    return tmp_path


def test_known_hashes(folder):
    # printf abc | b2sum
    assert json.loads((folder / "checksums.json").read_text())["item/d/data"] == {"bytes": 3, "blake2b": (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923")}
    assert manifest.problem(folder) is None


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("item/d/data", b"ab", "item/d/data must have 3 bytes; got 2"),
    ("item/d/data", b"abd", "item/d/data is not what was written: its BLAKE2b is another"),
    ("item/d/data", None, "item/d/data is missing"),
    ("metadata", b"x", "metadata must have 0 bytes; got 1"),
    ("checksums.json", b'{"item/d/da', "checksums.json is cut or altered"),
    ("checksums.json", None, "checksums.json is missing"),
    ("checksums.json", b"{}", "checksums.json is cut or altered"),
    ("checksums.json", b"[" * 100_000, "checksums.json is cut or altered"),
    ("checksums.json", b"[]", "checksums.json is cut or altered"),
    ("checksums.json", b'{"metadata": {}}', "checksums.json is cut or altered"),
])
def test_damage_is_named(folder, name, content, problem):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert manifest.problem(folder) == problem


def test_what_is_no_file_is_not_read(folder):
    (folder / "metadata").unlink()
    os.mkfifo(folder / "metadata")  # Whoever opens it waits for ever.
    assert manifest.problem(folder) == "metadata is missing"


def test_writing_again_replaces_the_hashes(folder):
    (folder / "metadata").write_bytes(b"x")
    manifest.write(folder)
    assert manifest.problem(folder) is None


def test_a_part_alone(folder):
    (folder / "item" / "d" / "data").write_bytes(b"abd")
    assert manifest.problem(folder, "metadata") is None
    assert manifest.problem(folder, "item/") == "item/d/data is not what was written: its BLAKE2b is another"
