"""What importing the library leaves of its user's own settings: all of them."""
import subprocess
import sys

import pytest

CODE = """
import logging, os, signal, warnings
import jax, matplotlib
import orbax.checkpoint  # Whose import logs something, at which absl gives the root logger a handler.
matplotlib.use("svg")
def settings():
    return (matplotlib.get_backend(), dict(os.environ), signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM), logging.getLogger().level, list(logging.getLogger().handlers),
            dict(jax.config.values))
before = settings()
import absl.logging
level = absl.logging.get_verbosity(), logging.getLogger("absl").level
import morel_jax.evaluation.figures, morel_jax.interop.torch, morel_jax.reproduction.page, morel_jax.training
morel_jax.evaluation.figures.new_figure(1, 1).savefig(os.devnull, format="png")
after = settings()
assert after == before, [pair for pair in zip(before, after) if pair[0] != pair[1]]
assert (absl.logging.get_verbosity(), logging.getLogger("absl").level) == level
"""


@pytest.mark.slow
def test_importing_it_changes_no_setting():
    outcome = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
