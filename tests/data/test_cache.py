import json
import logging
import pathlib
import re
import threading

import numpy as np
import pytest

from morel_jax.data import cache

SOURCE = {"name": "made", "files": [["a", 1]]}


def build(folder, value=7):
    with cache.build(folder, SOURCE) as (output, metadata):
        np.save(output / "images.npy", np.full((3, 2), value, np.uint8))
        np.save(output / "labels.npy", np.arange(3, dtype=np.int32))
        metadata["class_names"] = ["a"]


@pytest.fixture
def entry(tmp_path):
    build(tmp_path / "cache" / "entry")
    return tmp_path / "cache" / "entry"


def test_reads_back_what_was_built(entry, caplog):
    arrays, metadata = cache.read(entry, SOURCE)
    assert metadata == {"class_names": ["a"]}
    np.testing.assert_array_equal(arrays["images"], np.full((3, 2), 7, np.uint8))
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in arrays.values())
    assert [path.name for path in entry.parent.iterdir()] == ["entry"]
    assert not caplog.records
    manifest = json.loads((entry / "manifest.json").read_text())
    assert manifest["source"] == SOURCE
    assert manifest["arrays"]["labels"] == {
        "file": "labels.npy", "bytes": 128 + 12, "shape": [3], "dtype": "int32",
        "sha256": cache.sha256(np.arange(3, dtype=np.int32))}


def test_sha256_is_of_the_values():
    # printf '\1\2\3' | sha256sum
    assert cache.sha256(np.array([[1, 2, 3]], np.uint8)) == (
        "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81")


def test_no_entry_and_another_source_are_none(entry, caplog):
    assert cache.read(entry.parent / "none", SOURCE) is None
    assert cache.read(entry, {**SOURCE, "name": "other"}) is None
    assert not caplog.records


def _flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda entry: (entry / "images.npy").unlink(), "images.npy"),
    (lambda entry: (entry / "images.npy").write_bytes(b""), "images.npy must have 134 bytes; got 0"),
    (lambda entry: _flip_last_byte(entry / "images.npy"), "images.npy must have SHA-256"),
    (lambda entry: np.save(entry / "images.npy", np.full((2, 3), 7, np.uint8)),
     r"uint8\[3, 2\]; got uint8\[2, 3\]"),
    (lambda entry: (entry / "images.npy").write_bytes(b"x" * 134), "damaged"),
    (lambda entry: (entry / "manifest.json").unlink(), "manifest.json"),
    (lambda entry: (entry / "manifest.json").write_text('{"format": 1, "sou'), "damaged"),
    (lambda entry: (entry / "manifest.json").write_text("[]"), "damaged"),
    (lambda entry: (entry / "manifest.json").write_text("{}"), "damaged"),
    (lambda entry: (entry / "manifest.json").write_text((entry / "manifest.json").read_text().replace('"a"', '"b"')),
     "manifest.json is not as it was written"),
])
def test_damage_is_reported_and_replaced(entry, damage, message, caplog):
    damage(entry)
    with caplog.at_level(logging.WARNING):
        assert cache.read(entry, SOURCE) is None
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    assert str(entry) in caplog.text
    assert re.search(message, caplog.text)
    build(entry, value=8)
    assert (cache.read(entry, SOURCE)[0]["images"] == 8).all()
    assert [path.name for path in entry.parent.iterdir()] == ["entry"]


def build_half(folder):
    with cache.build(folder, SOURCE) as (output, _):
        np.save(output / "images.npy", np.zeros(3))
        raise RuntimeError("half way")


def test_a_failed_build_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half way"):
        build_half(tmp_path / "entry")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_keeps_the_old_entry(entry):
    with pytest.raises(RuntimeError, match="half way"):
        build_half(entry)
    assert (cache.read(entry, SOURCE)[0]["images"] == 7).all()


def test_the_first_of_several_builders_wins(tmp_path):
    barrier = threading.Barrier(4)

    def work(value):
        with cache.build(tmp_path / "entry", SOURCE) as (output, _):
            np.save(output / "images.npy", np.full(3, value, np.uint8))
            barrier.wait()

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = cache.read(tmp_path / "entry", SOURCE)[0]["images"]
    build(tmp_path / "entry", value=99)
    np.testing.assert_array_equal(cache.read(tmp_path / "entry", SOURCE)[0]["images"], first)
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_a_killed_builds_scratch_is_removed_and_a_living_ones_kept(entry):
    dead = entry.parent / ".entry.abc.scratch"
    (dead / "new").mkdir(parents=True)
    other = entry.parent / ".other.def.scratch"  # Of an entry that may never be built again.
    other.mkdir()
    with cache.scratch(entry) as living:
        (living / "new").mkdir()
        build(entry.parent / "more")
        assert sorted(path.name for path in entry.parent.iterdir()) == sorted(["entry", "more", living.name])
        assert (living / "new").exists()
    assert sorted(path.name for path in entry.parent.iterdir()) == ["entry", "more"]


def test_scratch_is_made_again_when_it_is_taken_for_abandoned(tmp_path, monkeypatch):
    mkdtemp, made = cache.tempfile.mkdtemp, []

    def taken(**options):
        made.append(mkdtemp(**options))
        if len(made) == 1:
            cache.shutil.rmtree(made[0])
        return made[-1]

    monkeypatch.setattr(cache.tempfile, "mkdtemp", taken)
    with cache.scratch(tmp_path / "entry") as folder:
        assert str(folder) == made[1]
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_default_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default_dir() == tmp_path / "xdg" / "morel_jax"
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.default_dir() == tmp_path / ".cache" / "morel_jax"


def test_no_home_is_one_clear_error(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(ValueError, match=r"config\.data\.cache_dir.* must be given where HOME is not set"):
        cache.default_dir()


@pytest.mark.parametrize("home", ["/proc/home", "/dev/null/home"])
def test_a_home_that_cannot_be_written_is_named_with_its_setting(monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", home)
    place = cache.default_dir() / "decoded" / "entry"
    with pytest.raises(OSError, match=rf"config\.data\.cache_dir.* HOME.*must be a folder.*got {home}/.*: \w+"):
        with cache.build(place, {}):
            pass
