"""The adversarial images that an evaluation keeps on disk."""
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from morel_jax import manifest
from morel_jax.evaluation.pool import Finished
from morel_jax.files import DamagedFileError, sync


class SavedImages:
    """``<attack>.npy``, float32[n, h, w, c], and ``<attack>_uint8.npy`` in a folder, with their checksums.

    Row i belongs to example i; it is zero if the attack was not run on that example. The checksums exist only while no
    file is being written.

    Args:
        folder: made with the first image.
        shape: (n, h, w, c).

    Raises:
        DamagedFileError: a file is not as the checksums say.
    """

    def __init__(self, folder: Path, shape: Sequence[int]) -> None:
        self._folder, self._shape, self._checksums = folder, tuple(shape), folder / manifest.NAME
        self._remedy = f"Put back a copy of it, or move {folder.parent} away and evaluate again."
        if self._checksums.exists() and (fault := manifest.problem(folder)):
            place = fault if fault.startswith(str(folder)) else f"{folder}/{fault}"
            raise DamagedFileError(f"{place}. {self._remedy} Without saved images the evaluation continues as it is.")

    def writer(self, attack: str) -> Callable[[list[Finished]], None]:
        """A function that writes the images of a list of :class:`~morel_jax.evaluation.pool.Finished`.

        Raises:
            DamagedFileError: a file is no array of the images' shape.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._checksums.exists():
            self._checksums.unlink()
            sync(self._folder)
        arrays = {field: self._mapped(self._folder / f"{attack}{ending}.npy", dtype) for field, ending, dtype in (
            ("projected", "", np.float32), ("rounded", "_uint8", np.uint8))}

        def write(finished: list[Finished]) -> None:
            # Mapped from the files, so that a kill loses nothing that was written.
            for one in finished:
                for field, array in arrays.items():
                    array[one.index] = one.rechecked[field]

        return write

    def finish(self) -> None:
        """Writes the checksums, once no more images come."""
        if self._folder.exists() and not self._checksums.exists():
            manifest.write(self._folder)

    def _mapped(self, path: Path, dtype: type) -> np.ndarray:
        if not path.exists():
            temporary = path.with_name(path.name + ".tmp")
            np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=self._shape).flush()
            os.replace(temporary, path)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # With "r+" a cut file grows by zeros.
        except (ValueError, EOFError) as error:
            raise DamagedFileError(f"{path} is not an array as it was written ({error}). {self._remedy}") from None
        if array.shape != self._shape or array.dtype != dtype:
            raise DamagedFileError(f"{path} holds {array.dtype}{array.shape}, not {np.dtype(dtype)}{self._shape}. "
                                   + self._remedy)
        return np.load(path, mmap_mode="r+")
