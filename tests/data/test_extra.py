import numpy as np
import pytest

from morel_jax.data import Split
from morel_jax.data.extra import all_files, find_parts, label_file, load_extra, map_images
from tests.small import images_and_labels


def split(count=10):
    return Split(*images_and_labels(count))


def write(path, count=6, seed=1, save=np.savez):
    images, labels = images_and_labels(count, seed=seed)
    save(path, image=images, label=labels.astype(np.int64))
    return images, labels


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_extra_images_stand_behind_the_own(tmp_path, save):
    own, (images, labels) = split(), write(tmp_path / "extra.npz", save=save)
    found = load_extra(tmp_path / "extra.npz", own, 4, tmp_path / "cache")
    np.testing.assert_array_equal(found.images, np.concatenate([own.images, images]))
    np.testing.assert_array_equal(found.images[np.array([12, 3])], [images[2], own.images[3]])
    np.testing.assert_array_equal(found.labels, np.concatenate([own.labels, labels]))


def test_parts_are_read_in_the_order_of_their_names(tmp_path):
    second, first = write(tmp_path / "50m_part2.npz", 3, 2)[0], write(tmp_path / "50m_part1.npz", 5, 1)[0]
    other = write(tmp_path / "other.npz", 2, 3)[0]
    (tmp_path / "50m_part1.labels").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    for paths, expected in ((tmp_path, [first, second, other]), (f"{tmp_path}/50m_*", [first, second]),
                            (f"{tmp_path}/other.npz, {tmp_path}/50m_part*.npz", [other, first, second])):
        found = load_extra(paths, split(), 4)
        np.testing.assert_array_equal(np.asarray(found.images)[10:], np.concatenate(expected))
    with pytest.raises(ValueError, match=rf"must name each file once; got {tmp_path}/other\.npz twice"):
        find_parts(f"{tmp_path},{tmp_path}/other.npz")


def test_what_savez_wrote_is_mapped_and_nothing_is_cached(tmp_path):
    write(tmp_path / "extra.npz")
    assert isinstance(map_images(tmp_path / "extra.npz", tmp_path / "cache"), np.memmap)
    assert not (tmp_path / "cache").exists()


def test_compressed_images_are_decoded_once_until_the_file_changes(tmp_path):
    images, _ = write(tmp_path / "a.b.npz", save=np.savez_compressed)
    for _ in range(2):
        found = map_images(tmp_path / "a.b.npz", tmp_path / "cache")
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, images)
        (entry,) = (tmp_path / "cache" / "decoded").iterdir()
    stamp = entry.stat().st_mtime_ns
    map_images(tmp_path / "a.b.npz", tmp_path / "cache")
    assert entry.stat().st_mtime_ns == stamp
    other, _ = write(tmp_path / "a.b.npz", count=7, seed=2, save=np.savez_compressed)
    np.testing.assert_array_equal(map_images(tmp_path / "a.b.npz", tmp_path / "cache"), other)


def test_labels_may_be_beside_the_images(tmp_path):
    images, labels = images_and_labels(6, seed=1)
    np.savez(tmp_path / "pool.npz", image=images)
    with pytest.raises(ValueError, match=r"pool\.npz must hold arrays image and label; got image"):
        load_extra(tmp_path / "pool.npz", split(), 4)
    with open(label_file(tmp_path / "pool.npz"), "wb") as file:
        np.savez(file, label=labels)
    np.testing.assert_array_equal(load_extra(tmp_path / "pool.npz", split(), 4).labels[10:], labels)
    assert all_files(tmp_path / "pool.npz") == [tmp_path / "pool.npz", tmp_path / "pool.labels"]
    with open(label_file(tmp_path / "pool.npz"), "wb") as file:
        np.savez(file, label=labels[:5])
    with pytest.raises(ValueError, match=r"label in .*pool\.labels must be int\[6\]; got int32\[5\]"):
        load_extra(tmp_path / "pool.npz", split(), 4)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("arrays", "message"), [
    (dict(images=np.zeros(3)), "must hold arrays image and label; got images"),
    (dict(image=np.zeros((3, 8, 8, 3), np.float32), label=np.zeros(3, int)), r"uint8\[n, 8, 8, 3\]; got float32"),
    (dict(image=np.zeros((3, 9, 8, 3), np.uint8), label=np.zeros(3, int)), r"got uint8\[3, 9, 8, 3\]"),
    (dict(image=np.zeros((3, 8, 8, 3), np.uint8), label=np.zeros(2, int)), r"must be int\[3\]; got int64\[2\]"),
    (dict(image=np.zeros((3, 8, 8, 3), np.uint8), label=np.full(3, 4)), r"must be in 0 \.\. 3.*got 4 \.\. 4"),
    (dict(image=np.zeros((0, 8, 8, 3), np.uint8), label=np.zeros(0, int)), "got none"),
])
def test_other_files_are_refused(tmp_path, arrays, message, save):
    write(tmp_path / "a.npz")
    save(tmp_path / "extra.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_extra(tmp_path, split(), 4, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["none.npz", "none*.npz", ".", "a.npz,none.npz"])
def test_missing_files(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty" / "a.npz")
    (tmp_path / "empty" / "a.npz").rename(tmp_path / "a.npz")
    paths = ",".join(f"{tmp_path}/{'empty' if one == '.' else one}" for one in name.split(","))
    with pytest.raises(FileNotFoundError, match=r"config\.data\.extra must be an \.npz file"):
        load_extra(paths, split(), 4)


def test_paths_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "extra.npz")
    assert len(load_extra("~/extra.npz", split(), 4)) == 16
    for paths in ("s3://bucket/extra.npz", "~/extra.npz,s3://bucket/extra.npz"):
        with pytest.raises(ValueError, match=r"config\.data\.extra must be a path"):
            load_extra(paths, split(), 4)
