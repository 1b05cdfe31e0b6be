"""Arrays mapped from files, so that only the rows that are asked for are read."""
from pathlib import Path

import numpy as np

from morel_jax.files import reading


def map_array(path: Path) -> np.ndarray:
    """The array of an .npy file, memory-mapped and read-only; it may be larger than the memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole .npy file.
    """
    with reading(path, "is not a whole .npy file", into_memory=False):
        return np.load(path, mmap_mode="r", allow_pickle=False)
