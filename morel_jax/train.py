"""Trains a network, or resumes the run in its folder.

Examples:
    morel train --config=cifar10:resnet18,morel_mart --workdir=runs/cifar10
    morel train --config=cifar10:resnet18,morel_mart --config.data.name=folder:/data/birds --workdir=runs/birds
    morel train --config=cifar100:resnet18,trades --init_from=runs/cifar10 --workdir=runs/cifar100
    morel train --config=quickstart --config.epochs=3 --config.seed=1 --workdir=runs/three
"""
import os
import sys

from absl import flags

from morel_jax import command
from morel_jax.files import local_path

_CONFIG = command.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder. An existing run in it is resumed.")
_BEGINNING = command.BeginningFlags()
_DRY_RUN = command.DryRunFlags("the run's step")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show how far the epoch is; each epoch's line is shown anyway.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join other processes, as SLURM, Kubernetes or a TPU pod tell.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0; joins other processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which process this is, from 0.", lower_bound=0)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes the run has.", lower_bound=1)
_DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "On a GPU, only kernels that repeat bit for bit; slower.")
_PROFILE = flags.DEFINE_integer("profile", 0, "Trace so many steps into profile/ in the workdir.", lower_bound=0)
command.define_compilation_cache()


def _main() -> None:
    # Imported here: --help and a wrong flag answer at once.
    from morel_jax import determinism, sharding
    from morel_jax.targets import dry_run
    from morel_jax.training import fit
    if _DETERMINISTIC.value:
        determinism.use_deterministic_kernels()
    if _DISTRIBUTED.value or _COORDINATOR.value is not None or "JAX_COORDINATOR_ADDRESS" in os.environ:
        sharding.start_processes(_COORDINATOR.value, _PROCESS_ID.value, _NUM_PROCESSES.value)
    elif _PROCESS_ID.value is not None or _NUM_PROCESSES.value is not None:
        raise ValueError("--process_id and --num_processes must come with --coordinator, with --distributed, or with "
                         "JAX_COORDINATOR_ADDRESS in the environment: without them this process is alone.")
    if _DRY_RUN.run(lambda target: dry_run(_CONFIG.value, target)):
        return
    workdir = local_path(_WORKDIR.value, "--workdir")
    fit(_CONFIG.value, workdir, progress=_PROGRESS.value or "epochs", profile=_PROFILE.value, **_BEGINNING.arguments)
    if sharding.is_first_process():
        print(f"done: {workdir}", file=sys.stderr)


def main(argv: list[str]) -> int:
    """Trains as the flags say. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    return command.exit_status(_main)


def run() -> None:
    """Entry point of the console script."""
    _DRY_RUN.register()
    command.run(main, required=["config"])


if __name__ == "__main__":
    run()
