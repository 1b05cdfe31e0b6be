import fcntl
import json
import logging
import pathlib
import re
import threading

import numpy as np
import pytest

from morel_jax.data import cache

SHAPE = (3, 2, 2, 1)


def filling(value=7, labels=(0, 0, 0)):
    def fill(output):
        for split in ("train", "test"):
            np.save(output / f"{split}_images.npy", np.full(SHAPE, value, np.uint8))
            np.save(output / f"{split}_labels.npy", np.array(labels, np.int32))
        return ("a",)
    return fill


def load(folder, value=7):
    return cache.load("made", folder, filling(value))


def never(_):
    raise AssertionError("The entry is there.")


@pytest.fixture
def entry(tmp_path):
    load(tmp_path / "cache" / "entry")
    return tmp_path / "cache" / "entry"


def test_reads_back_what_was_built(entry, caplog):
    dataset = cache.load("made", entry, never)
    assert (dataset.name, dataset.class_names, dataset.num_classes) == ("made", ("a",), 1)
    np.testing.assert_array_equal(dataset.train.images, np.full(SHAPE, 7, np.uint8))
    for array in (dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert [path.name for path in entry.parent.iterdir()] == ["entry"]
    assert not caplog.records
    assert sorted(path.name for path in entry.iterdir()) == [
        "checksums.json", "entry.json", "test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]


def test_an_entry_may_be_read_by_all_who_may_read_its_neighbours(entry):
    (entry.parent / "other").mkdir()
    assert entry.stat().st_mode == (entry.parent / "other").stat().st_mode


def test_place_depends_on_name_and_source(tmp_path):
    place = cache.place(tmp_path, "shapes/blue:1.2.0", ["a"])
    assert place.parent == tmp_path / "decoded"
    assert re.fullmatch("shapes-blue-1.2.0-[0-9a-f]{16}", place.name)
    assert place == cache.place(tmp_path, "shapes/blue:1.2.0", ["a"])
    assert len({place, cache.place(tmp_path, "shapes/blue:1.2.0", ["b"]), cache.place(tmp_path, "other", ["a"])}) == 3


def _flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda entry: (entry / "test_images.npy").unlink(), "test_images.npy is missing"),
    (lambda entry: (entry / "test_images.npy").write_bytes(b""), "test_images.npy must have 140 bytes; got 0"),
    (lambda entry: _flip_last_byte(entry / "test_images.npy"), "test_images.npy is not what was written"),
    (lambda entry: np.save(entry / "test_images.npy", np.full((2, 3, 2, 1), 7, np.uint8)), "is not what was written"),
    (lambda entry: (entry / "test_images.npy").write_bytes(b"x" * 140), "is not what was written"),
    (lambda entry: (entry / "checksums.json").unlink(), "checksums.json is missing"),
    (lambda entry: (entry / "checksums.json").write_text('{"entry.js'), "checksums.json is cut or altered"),
    (lambda entry: (entry / "checksums.json").write_text("[]"), "checksums.json is cut or altered"),
    (lambda entry: (entry / "entry.json").unlink(), "entry.json is missing"),
    (lambda entry: (entry / "entry.json").write_text((entry / "entry.json").read_text().replace('"a"', '"b"')),
     "entry.json is not what was written"),
])
def test_damage_is_reported_and_replaced(entry, damage, message, caplog):
    damage(entry)
    with caplog.at_level(logging.WARNING):
        assert (load(entry, value=8).train.images == 8).all()
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "WARNING"
    assert str(entry) in caplog.text
    assert "is damaged and will be made again" in caplog.text
    assert message in caplog.text
    assert (cache.load("made", entry, never).train.images == 8).all()
    assert [path.name for path in entry.parent.iterdir()] == ["entry"]


def fill_half(output):
    np.save(output / "train_images.npy", np.zeros(3))
    raise RuntimeError("half way")


def test_a_failed_build_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half way"):
        cache.load("made", tmp_path / "entry", fill_half)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_keeps_what_was_there(entry):
    _flip_last_byte(entry / "test_images.npy")
    with pytest.raises(RuntimeError, match="half way"):
        cache.load("made", entry, fill_half)
    assert [path.name for path in entry.parent.iterdir()] == ["entry"]
    assert len(list(entry.iterdir())) == 6


def test_what_makes_no_data_set_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="labels must be >= 0"):
        cache.load("made", tmp_path / "entry", filling(labels=(0, 0, -1)))
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_several_builders_wins(tmp_path):
    barrier, found = threading.Barrier(4), []

    def work(value):
        def fill(output):
            names = filling(value)(output)
            barrier.wait()
            return names

        found.append(cache.load("made", tmp_path / "entry", fill))

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = cache.load("made", tmp_path / "entry", never).train.images
    assert len(found) == 4
    for dataset in found:
        np.testing.assert_array_equal(dataset.train.images, first)
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_a_killed_builds_scratch_is_removed_and_a_living_ones_kept(entry):
    dead = entry.parent / ".entry.abc.scratch"
    (dead / "tmp").mkdir(parents=True)
    other = entry.parent / ".other.def.scratch"  # Of an entry that may never be built again.
    other.mkdir()
    with cache.scratch(entry) as living:
        (living / "new").mkdir()
        load(entry.parent / "more")
        assert sorted(path.name for path in entry.parent.iterdir()) == sorted(["entry", "more", living.name])
        assert (living / "new").exists()
    assert sorted(path.name for path in entry.parent.iterdir()) == ["entry", "more"]


def test_a_kill_right_after_the_entry_is_in_place_leaves_nothing_else(tmp_path, monkeypatch):
    names = []

    def killed(name, fresh, folder, put=cache._put):
        put(name, fresh, folder)
        names.extend(path.name for path in tmp_path.iterdir())  # No later step changes what a kill here leaves.

    monkeypatch.setattr(cache, "_put", killed)
    (tmp_path / "entry").mkdir()  # A damaged one.
    load(tmp_path / "entry")
    assert names == ["entry"]


def test_scratch_is_made_again_when_it_is_taken_for_abandoned(tmp_path, monkeypatch):
    flock, made = fcntl.flock, []

    def taken(descriptor, flags):
        (folder,) = tmp_path.iterdir()
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()
        flock(descriptor, flags)

    monkeypatch.setattr(cache.fcntl, "flock", taken)
    with cache.scratch(tmp_path / "entry") as folder:
        assert folder == made[1] != made[0]
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_is_taken_for_abandoned(entry, monkeypatch):
    def unsupported(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(cache.fcntl, "flock", unsupported)
    (entry.parent / ".entry.abc.scratch").mkdir()
    load(entry.parent / "more")
    assert sorted(path.name for path in entry.parent.iterdir()) == [".entry.abc.scratch", "entry", "more"]


def test_images_are_written_as_they_come(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), np.uint8)
    cache.write_images(tmp_path / "a.npy", iter(images), 5, "made")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), images)
    with pytest.raises(ValueError, match="zip"):
        cache.write_images(tmp_path / "a.npy", iter(images), 6, "made")
    with pytest.raises(ValueError, match="made must have at least one example"):
        cache.write_images(tmp_path / "a.npy", [], 0, "made")
    with pytest.raises(ValueError, match=r"in made, row 1 has \(4, 2, 2\), row 0 \(4, 3, 2\)"):
        cache.write_images(tmp_path / "a.npy", [images[0], images[1, :, :2]], 2, "made")


def test_record_is_plain(entry):
    assert json.loads((entry / "entry.json").read_text()) == {"class_names": ["a"]}


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
    place = cache.place(cache.default_dir(), "made", None)
    with pytest.raises(OSError, match=rf"config\.data\.cache_dir.* HOME.*must be a folder.*got {home}/.*: \w+"):
        cache.load("made", place, never)
