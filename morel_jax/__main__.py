"""Trains and judges adversarially robust image classifiers.

Examples:
    morel quickstart
    morel train --config=cifar10:resnet18,morel_mart --workdir=runs/cifar10
    morel evaluate --workdir=runs/cifar10 --attacks=paper,autoattack
    morel plan --config=cifar10:resnet18,morel_mart --target=h100
"""
import ast
import difflib
import importlib
import sys
from pathlib import Path

from morel_jax import __version__

COMMANDS = ("quickstart", "train", "evaluate", "sweep", "report", "reproduce", "export")
# Those that can say what they need.
PLANNED = ("train", "sweep", "evaluate", "reproduce")
_PLAN = f"""Says what a command would need, without data: memory, time, operations. It is the command's --dry_run.

Examples:
    morel plan --config=cifar10:resnet18,morel_mart
    morel plan --config=cifar10:wide_resnet34_10,trades --config.batch_size=512 --target=h100:8
    morel plan sweep --config=quickstart --sweep=seed:0,1,2
    morel plan evaluate --workdir=runs/cifar10 --attacks=autoattack

After `plan` comes one of {', '.join(PLANNED)}, by default train, and then its flags: `morel plan sweep --help`."""


def documentation(command: str) -> str:
    """What a command says of itself: a line, then examples."""
    if command == "plan":
        return _PLAN
    # Read and not imported: commands share names of flags.
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def _help() -> str:
    lines = [f"  {name:<12}{documentation(name).splitlines()[0]}" for name in (*COMMANDS, "plan")]
    return "\n".join([(__doc__ or "").strip(), "", "Commands:", *lines, "",
                      "`morel COMMAND --help` has a command's examples and flags, `morel --version` the version."])


def _nearest(name: str, known: tuple[str, ...]) -> str:
    (nearest,) = difflib.get_close_matches(name, known, 1, 0)
    return f"error: {name!r} is no command of morel; nearest: {nearest}. `morel --help` lists them."


def run() -> None:
    """Entry point of the console script ``morel``."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help") or (name == "plan" and rest in (["--help"], ["-h"])):
        print(_PLAN if name == "plan" else _help())
        return
    if name == "--version":
        print(f"morel_jax {__version__}")
        return
    known: tuple[str, ...] = (*COMMANDS, "plan")
    if name == "plan":
        known = PLANNED
        name, *rest = rest if rest and not rest[0].startswith("-") else ["train", *rest]
        rest.append("--dry_run")
    if name not in known:
        print(_nearest(name, known), file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"morel {name}", *rest]
    importlib.import_module(f"morel_jax.{name}").run()


if __name__ == "__main__":
    run()
