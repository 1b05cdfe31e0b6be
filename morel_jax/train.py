"""Command: ``python -m morel_jax.train --config=configs/cifar10.py:resnet18,morel_mart,paper --workdir=runs/a``."""
import sys

from absl import flags
from ml_collections import config_flags

from morel_jax import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config(), and after a colon its argument.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder. A run that is there already is gone on with.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show a progress bar and a line an epoch.")


def main(argv):
    """Trains as the flags say; a wrong config or folder is one line on standard error and exit status 2."""
    del argv
    # Imported here: --help and a wrong flag answer at once.
    from morel_jax.training import Diverged, Interrupted, fit
    try:
        fit(_CONFIG.value, _WORKDIR.value, progress=_PROGRESS.value)
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"done: {_WORKDIR.value}", file=sys.stderr)
    return 0


def run():
    """Entry point of the console script."""
    command.run(main, required=["config", "workdir"])


if __name__ == "__main__":
    run()
