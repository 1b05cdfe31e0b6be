"""The commands within this process: a fresh one would start JAX anew for each flag."""
import contextlib
import importlib
import io
import sys

from absl import app, flags

from morel_jax.__main__ import COMMANDS

_MODULES = [f"morel_jax.{name}" for name in (*COMMANDS, "__main__")]


@contextlib.contextmanager
def _fresh(module):
    """A command's module with its flags; those of other commands have the same names."""
    before = set(flags.FLAGS)
    for name in _MODULES:  # `morel` imports another.
        sys.modules.pop(name, None)
    try:
        yield importlib.import_module(module)
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        for name in _MODULES:
            sys.modules.pop(name, None)


def call(monkeypatch, command, *arguments):
    """(exit status, standard output, standard error) of ``python -m morel_jax.<command> ...``, or of ``__main__``."""
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    monkeypatch.setattr(app, "run", lambda main, flags_parser: sys.exit(main(flags_parser(sys.argv))))
    status = None
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            with _fresh(f"morel_jax.{command}") as module:
                module.run()
        except SystemExit as end:
            status = end.code
    return status or 0, out.getvalue(), err.getvalue()
