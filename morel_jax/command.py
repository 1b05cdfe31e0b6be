"""What the commands share: flags read with one clear line where they are wrong."""
import signal
import sys

from absl import app, flags, logging


def _parse(argv):
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest:
            raise flags.Error(f"arguments that no flag takes: {' '.join(rest)}")
    # The config's own file runs while flags are parsed.
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        # ml_collections puts the whole traceback of a config file's own error into its message; the last line is ours.
        message = str(error).strip().splitlines()[-1] if "Traceback" in str(error) else error
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    return argv[:1]


def exit_status(work):
    """Calls ``work()``, a command's work; what goes wrong becomes one line on standard error.

    Returns:
        what ``work`` returns, None counting as 0; 2 after something wrong in what was given, or a folder or disk that
        cannot be used; 3 after a divergence; 128 and its number after a signal.
    """
    from morel_jax.training import Diverged, Interrupted  # Here: --help and a wrong flag answer at once.
    try:
        return work() or 0
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError, ImportError) as error:  # The last: an extra that is not installed.
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(main, required=()):
    """Runs ``main(argv)`` with the flags parsed; a wrong flag or config file is one line and exit status 2.

    Args:
        main: function of the program's name in a list; what it returns is the exit status.
        required: names of flags that must be given.
    """
    flags.mark_flags_as_required(required)
    # Below this, JAX tells which accelerators it did not find.
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=_parse)
