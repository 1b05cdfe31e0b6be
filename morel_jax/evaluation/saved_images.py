"""The adversarial images that an evaluation keeps on disk."""
import os

import numpy as np

from morel_jax import manifest
from morel_jax.files import DamagedFileError, sync


class SavedImages:
    """``<attack>.npy``, float32[n, h, w, c], and ``<attack>_uint8.npy`` in a folder, with their checksums.

    Row i belongs to example i; it is zero where the attack was not run on that example. The checksums are there while
    nothing is being written.

    Args:
        folder: Path; made with the first image.
        shape: (n, h, w, c).

    Raises:
        DamagedFileError: the folder has checksums, and a file is not as they say.
    """

    def __init__(self, folder, shape):
        self._folder, self._shape = folder, tuple(shape)
        if (folder / manifest.NAME).exists() and (fault := manifest.problem(folder)):
            raise DamagedFileError(f"{folder} is damaged: {fault}. Put back a copy of it, or move {folder.parent} away "
                                   "and evaluate anew; without saved images the evaluation continues as it is.")

    def writer(self, attack):
        """A function that writes the images of a list of :class:`~morel_jax.evaluation.pool.Finished`.

        Raises:
            DamagedFileError: a file is no whole array.
            ValueError: a file holds another number of images, or images of another shape.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if (self._folder / manifest.NAME).exists():
            (self._folder / manifest.NAME).unlink()
            sync(self._folder)
        arrays = {field: self._mapped(self._folder / f"{attack}{ending}.npy", dtype) for field, ending, dtype in (
            ("projected", "", np.float32), ("rounded", "_uint8", np.uint8))}

        def write(finished):
            # Mapped from the files: a kill of the program loses nothing that was written here.
            for one in finished:
                for field, array in arrays.items():
                    array[one.index] = one.rechecked[field]

        return write

    def finish(self):
        """Writes the checksums, once no more images come."""
        if self._folder.exists() and not (self._folder / manifest.NAME).exists():
            manifest.write(self._folder)

    def _mapped(self, path, dtype):
        if path.exists():
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)  # With "r+" a cut file grows by zeros.
            except (ValueError, EOFError) as error:
                raise DamagedFileError(f"{path} is not an array as it was written ({error}). Move the folder away, and "
                                       "evaluate anew to save the images of all rows.") from None
            if array.shape != self._shape or array.dtype != dtype:
                raise ValueError(f"{path} holds {array.dtype}{array.shape}, not {np.dtype(dtype)}{self._shape}; "
                                 "move it away, or save the images of as many examples as before.")
        else:
            temporary = path.with_name(path.name + ".tmp")
            np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=self._shape).flush()
            os.replace(temporary, path)
        return np.load(path, mmap_mode="r+")
