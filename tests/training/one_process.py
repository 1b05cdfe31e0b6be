"""One process of a run: ``python -m tests.training.one_process WORKDIR PROCESSES ID PORT DEVICES``.

Trains on four fake devices in all, ``DEVICES`` of them this process's, as two copies of the parameters of two parts
each; of one process with one device, on that. Process 0 writes the final state's arrays to WORKDIR/final.npz.
"""
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from jax.experimental import multihost_utils

from morel_jax import builders, sharding, training
from tests.small import small_config, small_dataset

EPOCHS, STEPS = 2, 12
_HEARTBEAT_SECONDS = 10


def main(workdir, processes, number, port, devices):
    """Trains to the end, or goes on with what is there."""
    processes, number, devices = int(processes), int(number), int(devices)
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        sharding.start_processes(f"localhost:{port}", number, processes, _HEARTBEAT_SECONDS)
    config = small_config(epochs=EPOCHS, batch_size=8, checkpoint__every_seconds=0.2,
                          mesh__fsdp=2 if processes * devices > 1 else 1, mesh__fsdp_min_size=64)
    with mock.patch.object(builders, "dataset", return_value=small_dataset()), \
            mock.patch.object(training.trainer, "_SECONDS_PER_DISPATCH", 0.05):
        state, history = training.fit(config, workdir, progress=False)
    assert len(history) == EPOCHS
    leaves = jax.tree.leaves(state)
    assert any(not leaf.is_fully_replicated for leaf in leaves) == (processes * devices > 1)
    if processes > 1:
        leaves = multihost_utils.process_allgather(leaves, tiled=True)
    if number == 0:
        np.savez(Path(workdir) / "final.npz", *map(np.asarray, leaves))


if __name__ == "__main__":
    main(*sys.argv[1:])
