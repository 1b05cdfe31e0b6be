"""``python -m benchmarks.faults.build_cache ARCHIVES CACHE``: builds the cache of a small Fashion-MNIST, made up.

Its archives are those of :func:`write_archives`, by whose checksums damage to them is found.
"""
import dataclasses
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from tests.data import made

_SEED = 0
_PER_CLASS = 60


def write_archives(folder):
    """Writes the four archives."""
    made.fashion(Path(folder), np.random.default_rng(_SEED), _PER_CLASS)


def main(arguments):
    """Builds or reads the cache. Exit status: see :func:`morel_jax.command.exit_status`."""
    from morel_jax import command, data
    from morel_jax.data import readers

    archives, cache = arguments
    with tempfile.TemporaryDirectory() as folder:
        write_archives(folder)
        reader = readers.BY_NAME["fashion_mnist"]
        reader = dataclasses.replace(reader, archives=made.trusted(reader.archives, Path(folder)))
    with mock.patch.dict(readers.BY_NAME, fashion_mnist=reader):
        return command.exit_status(lambda: data.load("fashion_mnist", archive_dir=archives, cache_dir=cache) and None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
