"""A run that finds the disk full in its second epoch: ``python -m tests.training.full_disk_run WORKDIR``.

A limit on the size of files stands in for the full disk: writing beyond it fails as there, with another number.
"""
import resource
import sys
from unittest import mock

from morel_jax import builders, training
from morel_jax.training.checkpoint import Checkpoints
from tests.small import tiny_config, tiny_dataset

# What Checkpoints.save is told after the first epoch of six steps and its validation.
FIRST_EPOCH = 7


def main(workdir):
    """Trains; an error is one line on standard output: TensorStore's threads write to the other one meanwhile."""
    save = Checkpoints.save

    def save_on_a_full_disk(self, which, position, *arguments):
        if position > FIRST_EPOCH:
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        save(self, which, position, *arguments)

    with mock.patch.object(builders, "dataset", return_value=tiny_dataset()), \
            mock.patch.object(Checkpoints, "save", save_on_a_full_disk):
        try:
            training.fit(tiny_config(), workdir, progress=False)
        except OSError as error:
            print(f"error: {error}", flush=True)
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
