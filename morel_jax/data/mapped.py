"""Arrays mapped from files, of which only the rows that are asked for are read, and several arrays as one."""
import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morel_jax.files import reading

# Images compress less than a hundredfold. Labels may compress more, but up to 64 MiB that does not matter.
_DENSEST, _SMALL = 100, 2**26
# Of the header before a member's bytes in a zip file: signature, its length, and where the lengths of its two parts of
# varying length stand (PKWARE's APPNOTE, 4.3.7).
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class Joined:
    """Rows of several arrays, one array's after another's, without a copy of them.

    Args:
        parts: arrays of one dtype and row shape, which may be memory-mapped; at least one.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts, self._ends = tuple(parts), np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype, self.ndim = parts[0].dtype, parts[0].ndim
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """The rows ``index``, a whole number of at least 0 or an array of them of any shape."""
        index = np.asarray(index)
        owner = np.searchsorted(self._ends, index, side="right")
        rows = np.empty((*index.shape, *self.shape[1:]), self.dtype)
        for number in np.unique(owner):
            own = owner == number
            rows[own] = self._parts[number][index[own] - (self._ends[number] - len(self._parts[number]))]
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("several arrays become one only by a copy.")
        return np.concatenate(self._parts).astype(dtype or self.dtype, copy=False)


def map_array(path: Path) -> np.ndarray:
    """The array of an .npy file, memory-mapped and read-only; it may be larger than the memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole .npy file.
    """
    with reading(path, "is not a whole .npy file", into_memory=False):
        return np.lib.format.open_memmap(path, "r")  # np.load would take files of other kinds too.


def member_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """(shape, dtype, whether it is in Fortran's order) of an array in an .npz file, if the file can hold that much.

    Raises:
        ValueError: it cannot, or the member is no .npy file.
    """
    entry, size = archive.getinfo(name), Path(str(archive.filename)).stat().st_size
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        claimed = file.tell() + math.prod(shape) * dtype.itemsize
    if min((*shape, 0)) < 0 or claimed != entry.file_size:
        raise ValueError(f"{name} claims {claimed} bytes and has {entry.file_size}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    if entry.compress_size > size or claimed > max(_SMALL, _DENSEST * entry.compress_size):
        raise ValueError(f"{name} claims {claimed} bytes of a file of {size}")
    return shape, dtype, fortran


def read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an .npz file, in memory."""
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def map_member(archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """An array of an .npz file that ``numpy.savez`` wrote, mapped where it stands; None where it is compressed.

    Raises:
        ValueError: as :func:`member_header`.
    """
    shape, dtype, fortran = member_header(archive, name)
    entry, path = archive.getinfo(name), str(archive.filename)
    if entry.compress_type != zipfile.ZIP_STORED:
        return None
    with open(path, "rb") as file:
        file.seek(entry.header_offset)
        signature, *lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != b"PK\3\4":
            raise ValueError(f"{name} does not stand where the file says")
        start = entry.header_offset + _LOCAL_HEADER.size + sum(lengths)
    # The array ends where the member does, whatever its own header's length.
    offset = start + entry.file_size - math.prod(shape) * dtype.itemsize
    return np.memmap(path, dtype, "r", offset, shape, order="F" if fortran else "C")
