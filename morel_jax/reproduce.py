"""Trains and evaluates what the paper's tables and figures need, and reports ours beside the paper's.

Examples:
    morel reproduce --table=1 --scale=small --root=runs/reproduction
    morel reproduce --all --scale=paper --root=runs/reproduction --dry_run
"""
import json
import sys

from absl import flags

from morel_jax import command

_TABLE = flags.DEFINE_multi_integer("table", [], "A table of the paper, such as 1; may be given several times.", 1)
_FIGURE = flags.DEFINE_multi_integer("figure", [], "A figure: 2, 3 or 4; may be given several times.", 2, 4)
_ALL = flags.DEFINE_bool("all", False, "All tables and figures of the paper.")
_STUDY = flags.DEFINE_bool("study", False, "The study of what the paper leaves open: terms, batch size, scalarization.")
_SCALE = flags.DEFINE_enum("scale", "small", ["paper", "small", "smoke"],
                           "The paper's data and networks, what the machine at hand can do, or a check in minutes.")
_VARIANT = flags.DEFINE_enum("variant", "paper", ["paper", "reference"], "The reading of the method.")
_ROOT = flags.DEFINE_string("root", None, "Folder of the reproduction. What is already there is resumed.")
_CONFIGS = flags.DEFINE_string("configs", None, "Folder with the config files; by default the shipped ones.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "A prepared TFDS data_dir, as config.data.data_dir.")
_ARCHIVE_DIR = flags.DEFINE_string("archive_dir", "", "A folder with the data sets' archives, as in config.data.")
_SHARD = flags.DEFINE_string("shard", "1/1", "I/N: only the I-th of N parts of the work; counted from 1.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the remaining work and its estimated cost, and stop.")
_EXPLAIN = flags.DEFINE_string(
    "explain", None, "Print how a cell's number is made, and stop: TABLE/DATASET/ARCHITECTURE/THREAT/METHOD/ATTACK/"
    "CHECKPOINT, such as 1/cifar10/resnet18/white-box/morel_mart/pgd20/best.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")
command.define_compilation_cache()


def _shard() -> tuple[int, int]:
    number, _, count = _SHARD.value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard must be I/N with 1 <= I <= N; got {_SHARD.value!r}.")
    return int(number), int(count)


def _main() -> None:
    from morel_jax.configuration import SHIPPED_CONFIGS
    from morel_jax.files import local_path
    from morel_jax.reproduction import page, report, work
    from morel_jax.reproduction.grid import FIGURES, Grid, scale
    from morel_jax.reproduction.paper import TABLES, parse
    from morel_jax.reproduction.trials import Reproduction

    root = local_path(_ROOT.value, "--root")
    configs = SHIPPED_CONFIGS if _CONFIGS.value is None else local_path(_CONFIGS.value, "--configs")
    data = {"data_dir": _DATA_DIR.value, "archive_dir": _ARCHIVE_DIR.value}
    grid = Grid(scale(_SCALE.value), _VARIANT.value, configs, {k: v for k, v in data.items() if v})
    everything = _ALL.value or _EXPLAIN.value is not None
    tables, figures = (TABLES, FIGURES) if everything else (sorted(set(_TABLE.value)), sorted(set(_FIGURE.value)))
    if not (tables or figures or _STUDY.value):
        raise ValueError("a reproduction must be told what: --table=N, --figure=N, --all or --study.")
    if not set(tables) <= set(TABLES):
        raise ValueError(f"--table must be one of {', '.join(map(str, TABLES))}; got {max(tables)}.")
    wanted = Reproduction(grid, root, tables, figures, _STUDY.value)
    if _EXPLAIN.value is not None:
        print(report.explain(wanted, parse(_EXPLAIN.value)))
        return
    families = wanted.shard(*_shard())
    if _DRY_RUN.value:
        print(work.describe_cost(wanted, families))
        return
    waiting = work.carry_out(wanted, families, _PROGRESS.value)
    if waiting:
        print(f"{len(waiting)} evaluations wait for a surrogate that another shard trains; give the command again when "
              "it is there.", file=sys.stderr)
    folder = wanted.folder / "report"
    page.write(report.build(wanted), folder)
    print(json.dumps({"report": str(folder / "report.html"), "waiting": len(waiting)}))


def main(argv: list[str]) -> int:
    """Trains, evaluates and reports. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    return command.exit_status(_main)


def run() -> None:
    """Entry point of the console script."""
    command.run(main, required=["root"])


if __name__ == "__main__":
    run()
