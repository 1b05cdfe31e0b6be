"""``python -m benchmarks.faults.build_cache ARCHIVES CACHE``: builds the cache of a small Fashion-MNIST, made up.

Its archives are those of :func:`write_archives`, by whose checksums damage to them is found.
"""
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from tests.data import made

_SEED = 0
_PER_CLASS = 60


def write_archives(folder):
    """Writes the four archives; returns {file: SHA-256 of its content}."""
    return made.fashion(Path(folder), np.random.default_rng(_SEED), _PER_CLASS)[1]


def main(arguments):
    """Builds or reads the cache. Exit status: see :func:`morel_jax.command.exit_status`."""
    from morel_jax import command, data
    from morel_jax.data.tfds_builders import FashionMnist

    archives, cache = arguments
    with tempfile.TemporaryDirectory() as folder:
        contents = write_archives(folder)
    with mock.patch.object(FashionMnist, "CONTENT_SHA256", contents):
        return command.exit_status(lambda: data.load("fashion_mnist", archive_dir=archives, cache_dir=cache) and None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
