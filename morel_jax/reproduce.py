"""Command: ``python -m morel_jax.reproduce --table=1 --scale=small --root=runs/reproduction``."""
import json
import sys

from absl import flags

from morel_jax import command

_TABLE = flags.DEFINE_multi_integer("table", [], "A table of the paper, 1 to 8; may be given several times.", 1, 8)
_FIGURE = flags.DEFINE_multi_integer("figure", [], "A figure: 2, 3 or 4; may be given several times.", 2, 4)
_ALL = flags.DEFINE_bool("all", False, "All tables and figures of the paper.")
_STUDY = flags.DEFINE_bool("study", False, "What the paper leaves open: terms, batch size, scalarization.")
_SCALE = flags.DEFINE_enum("scale", "small", ["paper", "small", "smoke"],
                           "The paper's data and networks, what the machine at hand can do, or a minutes' check.")
_VARIANT = flags.DEFINE_enum("variant", "paper", ["paper", "reference"], "Which reading of the method.")
_ROOT = flags.DEFINE_string("root", None, "Folder of the reproduction. What is there already is gone on with.")
_CONFIGS = flags.DEFINE_string("configs", "configs", "Folder with the config files.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "A prepared TFDS data_dir, as config.data.data_dir.")
_ARCHIVE_DIR = flags.DEFINE_string("archive_dir", "", "A folder with the data sets' archives, as in config.data.")
_SHARD = flags.DEFINE_string("shard", "1/1", "I/N: only the I-th of N parts of the work; counted from 1.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what is missing and what it will cost, and stop.")
_EXPLAIN = flags.DEFINE_string(
    "explain", None, "Say how a cell's number is made, and stop: TABLE/DATASET/ARCHITECTURE/THREAT/METHOD/ATTACK/"
    "CHECKPOINT, such as 1/cifar10/resnet18/white-box/morel_mart/pgd20/best.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")


def _selection():
    from morel_jax.reproduction.cells import TABLES
    from morel_jax.reproduction.grid import FIGURES
    if _ALL.value:
        return TABLES, FIGURES
    if not (_TABLE.value or _FIGURE.value or _STUDY.value):
        raise ValueError("a reproduction must be told what: --table=N, --figure=N, --all or --study.")
    return sorted(set(_TABLE.value)), sorted(set(_FIGURE.value))


def _shard():
    number, _, count = _SHARD.value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard must be I/N with 1 <= I <= N; got {_SHARD.value!r}.")
    return int(number), int(count)


def _say_cost(plan, families):
    from morel_jax.reproduction.cost import left, measure_flops_per_second, to_text
    rows = [(family, left(plan, family)) for family in families]
    rows = [(family, row) for family, row in rows if row.train_flops or row.judge_flops]
    speeds, of_network = {}, {}
    for family, row in rows:
        network = family.networks[0].architecture
        if network not in of_network:
            of_network[network] = measure_flops_per_second(plan.grid.base(family))
        speeds[row.family] = of_network[network]
    print(to_text([row for _, row in rows], speeds) if rows else "nothing is missing")


def _main():
    from morel_jax.files import local_path
    from morel_jax.reproduction import cells
    from morel_jax.reproduction.explain import explain
    from morel_jax.reproduction.grid import FIGURES, Grid
    from morel_jax.reproduction.page import write
    from morel_jax.reproduction.plan import Plan
    from morel_jax.reproduction.report import build
    from morel_jax.reproduction.scales import scale
    from morel_jax.reproduction.work import carry_out

    root, configs = local_path(_ROOT.value, "--root"), local_path(_CONFIGS.value, "--configs")
    data = {"data_dir": _DATA_DIR.value, "archive_dir": _ARCHIVE_DIR.value}
    grid = Grid(scale(_SCALE.value), _VARIANT.value, configs, {k: v for k, v in data.items() if v})
    if _EXPLAIN.value is not None:
        print(explain(Plan(grid, root, cells.TABLES, FIGURES), cells.parse(_EXPLAIN.value)))
        return
    tables, figures = _selection()
    plan = Plan(grid, root, tables, figures, study=_STUDY.value)
    number, count = _shard()
    families = plan.shard(number, count)
    if _DRY_RUN.value:
        _say_cost(plan, families)
        return
    waiting = carry_out(plan, families, _PROGRESS.value)
    if waiting:
        print(f"{len(waiting)} judgements wait for a surrogate that another shard trains; give the command again when "
              "it is there.", file=sys.stderr)
    folder = plan.folder / "report"
    write(build(plan), folder)
    print(json.dumps({"report": str(folder / "report.html"), "waiting": len(waiting)}))


def main(argv):
    """Trains, judges and reports. Exit status: see :func:`morel_jax.command.exit_status`."""
    del argv
    return command.exit_status(_main)


def run():
    """Entry point of the console script."""
    command.run(main, required=["root"])


if __name__ == "__main__":
    run()
