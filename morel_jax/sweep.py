"""Trains several networks as one compiled program: other preferences, seeds, learning rates, radii.

Examples:
    morel sweep --config=quickstart --sweep=preference:0.1..0.9:9 --workdir=runs/front
    morel sweep --config=cifar10:resnet18,trades --sweep=seed:0,1,2 --sweep=loss.beta:1,6 --workdir=runs/beta
    morel sweep --config=cifar100:resnet18,trades --init_from=runs/cifar10 --sweep=seed:0..4:5 --workdir=runs/seeds
"""
import sys
from typing import Any

from absl import flags

from morel_jax import command

_CONFIG = command.define_config()
_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "FIELD:VALUE,VALUE,... or FIELD:START..STOP:COUNT, both ends included; given again for another field: "
    "every combination. `preference` takes k1, and k2 is 1 - k1.")
_SWEEP_FILE = flags.DEFINE_string("sweep_file", None, 'In place of --sweep: JSON, a list of {"section.field": value}.')
_WORKDIR = flags.DEFINE_string("workdir", None, "The sweep's folder. An existing sweep in it is resumed.")
_BEGINNING = command.BeginningFlags()
_MODE = flags.DEFINE_enum("mode", None, ["sequential", "vmapped"],
                          "How one device works on its members; by default sequential on a CPU, else vmapped.")
_DRY_RUN = command.DryRunFlags("the members' step")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show how far the epoch is; each epoch's line is shown anyway.")
_PROFILE = flags.DEFINE_integer("profile", 0, "Trace so many steps into profile/ in the workdir.", lower_bound=0)
command.define_compilation_cache()


def _settings() -> list[dict[str, Any]]:
    from morel_jax.training.members import parse_sweeps, read_settings
    if bool(_SWEEP.value) == (_SWEEP_FILE.value is not None):
        raise ValueError("a sweep must be given by --sweep or by --sweep_file, and not by both.")
    return parse_sweeps(_SWEEP.value) if _SWEEP_FILE.value is None else read_settings(_SWEEP_FILE.value)


def _main() -> int:
    # Imported here: --help and a wrong flag answer at once.
    from morel_jax.files import local_path, write_atomically
    from morel_jax.targets import dry_run_population
    from morel_jax.training import fit_population
    from morel_jax.training.sweep_table import table_rows, to_csv, to_markdown
    if _DRY_RUN.run(lambda target: dry_run_population(_CONFIG.value, _settings(), _MODE.value, target)):
        return 0
    workdir = local_path(_WORKDIR.value, "--workdir")
    outcomes = fit_population(_CONFIG.value, _settings(), workdir, _PROGRESS.value or "epochs", _MODE.value,
                              profile=_PROFILE.value, **_BEGINNING.arguments)
    rows = table_rows(outcomes)
    text = to_markdown(rows, workdir)
    for name, content in (("sweep.md", text), ("sweep.csv", to_csv(rows))):
        write_atomically(workdir / name, content)
    print(text)
    diverged = [outcome.member.name for outcome in outcomes if outcome.diverged]
    if diverged:
        print(f"error: loss or parameters are not finite in {len(diverged)} of {len(outcomes)} members: "
              f"{'; '.join(diverged)}. Their last good states stand in their folders.", file=sys.stderr)
        return 3
    print(f"done: {workdir}", file=sys.stderr)
    return 0


def main(argv: list[str]) -> int:
    """Trains as the flags say. Exit status: see :func:`morel_jax.command.exit_status`; 3 if any member diverged."""
    del argv
    return command.exit_status(_main)


def run() -> None:
    """Entry point of the console script."""
    _DRY_RUN.register()
    command.run(main, required=["config"])


if __name__ == "__main__":
    run()
