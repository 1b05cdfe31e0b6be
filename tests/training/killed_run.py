"""A run for another process to kill: ``python -m tests.training.killed_run WORKDIR``."""
import sys
from unittest import mock

from morel_jax import builders, training
from tests.small import small_config, small_dataset


def run(workdir):
    """Twelve epochs of 24 MOREL steps, a checkpoint every few of them, and validation after each epoch."""
    config = small_config(epochs=12, batch_size=4, attack__num_steps=10, validation__num_steps=20, ema_decay=0.99,
                          checkpoint__every_seconds=0.1)
    with mock.patch.object(builders, "dataset", return_value=small_dataset()), \
            mock.patch.object(training.loop, "_SECONDS_PER_DISPATCH", 0.02):
        return training.fit(config, workdir, progress=False)


if __name__ == "__main__":
    run(sys.argv[1])
