"""``python -m benchmarks.study --workdir=runs/study [GROUP ...]``: trains and judges, and writes what the page shows.

Each group of networks that is done goes into ``benchmarks/results/study/GROUP.json``; a killed one is resumed. Without
``--workdir`` nothing is trained, and figures and tables are made from the stored results again.
"""
import argparse
from pathlib import Path

from benchmarks.measure import environment
from benchmarks.study import figures, page, results
from benchmarks.study.design import GROUPS
from benchmarks.study.runs import run
from morel_jax import use_compilation_cache


def main():
    """Runs groups, then writes figures and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[[], *(group.name for group in GROUPS)], metavar="GROUP")
    parser.add_argument("--workdir", type=Path)
    options = parser.parse_args()
    use_compilation_cache()
    for group in GROUPS:
        if options.workdir and (not options.groups or group.name in options.groups):
            networks = run(options.workdir, group)
            results.write(group.name, networks, environment("python -m benchmarks.study --workdir=DIR"))
    stored = results.read()
    page.PAGE.write_text(page.with_tables(page.PAGE.read_text(), stored))
    figures.draw(stored)


if __name__ == "__main__":
    main()
