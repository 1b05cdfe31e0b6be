"""The command ``morel``."""
import subprocess
import sys

import pytest

from morel_jax.__main__ import COMMANDS, PLANNED, documentation
from tests.commands import call


def test_help_is_light_and_names_every_command():
    code = ("import sys\nfrom morel_jax.__main__ import run\nsys.argv = ['morel', '--help']\nrun()\n"
            "assert not {'jax', 'numpy', 'absl'} & set(sys.modules)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.index("Examples:") < said.index("Commands:")
    for name in (*COMMANDS, "plan"):
        assert f"\n  {name} " in said
        assert documentation(name).splitlines()[0] in said


@pytest.mark.parametrize("command", [*COMMANDS, *(f"plan {name}" for name in PLANNED)])
def test_help_of_a_command_begins_with_examples(command, monkeypatch):
    status, said, _ = call(monkeypatch, "__main__", *command.split(), "--help")
    name = command.split()[-1]
    assert status == 0
    assert said.startswith(documentation(name))
    examples, flags = said.split("\nFlags:\n")
    assert f"\nExamples:\n    morel {name}" in examples
    place = {"report": "output", "reproduce": "root"}.get(name, "workdir")
    assert f"  --{place}\n" in flags or f"  --{place} (default: " in flags


@pytest.mark.parametrize(("arguments", "message"), [
    ("trian", "error: 'trian' is no command of morel; nearest: train. `morel --help` lists them."),
    ("eval --workdir=x", "error: 'eval' is no command of morel; nearest: evaluate. `morel --help` lists them."),
    ("plan sweeps", "error: 'sweeps' is no command of morel; nearest: sweep. `morel --help` lists them."),
    ("train", "error: Flag --config must have a value other than None. Flag --workdir must be given, unless --dry_run"),
    ("train --config=quickstart --lr=1 --workdir=x", "error: Unknown command line flag 'lr'"),
    # No --workdir is asked for.
    ("plan --config=quickstart --config.epochs=0", "error: config.epochs must be at least 1; got 0."),
    ("plan train --config=quickstart --config.epochs=0", "error: config.epochs must be at least 1; got 0."),
    ("plan sweep --config=quickstart", "error: a sweep must be given by --sweep or by --sweep_file"),
    ("plan reproduce", "error: Flag --root must have a value other than None."),
    ("plan evaluate", "error: --dry_run must be given either --workdir or --config."),
])
def test_what_is_wrong_is_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, said, error = call(monkeypatch, "__main__", *arguments.split())
    assert (status, said) == (2, "")
    (line,) = error.splitlines()
    assert message in line


def test_version(monkeypatch):
    import morel_jax
    assert call(monkeypatch, "__main__", "--version")[1] == f"morel_jax {morel_jax.__version__}\n"
