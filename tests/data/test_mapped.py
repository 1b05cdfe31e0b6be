import zipfile

import numpy as np
import pytest

from morel_jax.data.mapped import Joined, map_member

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def member(path, name="image.npy"):
    with zipfile.ZipFile(path) as archive:
        return map_member(archive, name)


def test_rows_of_several_arrays_are_those_of_their_concatenation():
    parts = [np.arange(12).reshape(4, 3), np.zeros((0, 3), int), np.arange(100, 115).reshape(5, 3)]
    joined, whole = Joined(parts), np.concatenate(parts)
    assert (joined.shape, joined.ndim, joined.dtype, len(joined), joined.nbytes) == (
        whole.shape, 2, whole.dtype, 9, whole.nbytes)
    np.testing.assert_array_equal(np.asarray(joined), whole)
    for index in (0, 8, np.array([3, 4, 8, 0]), np.array([[4, 3], [0, 8]]), np.array([], int)):
        np.testing.assert_array_equal(joined[index], whole[index])
    with pytest.raises(IndexError):
        joined[np.array([0, 9])]


def test_only_the_rows_asked_for_are_read(tmp_path):
    asked = []

    class Watched(np.ndarray):
        def __getitem__(self, index):
            asked.append(np.asarray(index).tolist())
            return super().__getitem__(index)

    joined = Joined([np.zeros((4, 2)).view(Watched), np.ones((4, 2)).view(Watched)])
    joined[np.array([6, 1])]
    assert asked == [[1], [2]]


@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY), ARRAY.astype(">i4")])
def test_a_stored_array_is_mapped_where_it_stands(tmp_path, array):
    np.savez(tmp_path / "a.npz", label=np.zeros(3), image=array)
    found = member(tmp_path / "a.npz")
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, array)


def test_a_compressed_array_is_not_mapped(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", image=ARRAY)
    assert member(tmp_path / "a.npz") is None
