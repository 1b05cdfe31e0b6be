"""``python -m benchmarks.study --workdir=runs/study [GROUP ...]``: trains and judges, and writes what the page shows.

Each group of networks that is done goes into ``benchmarks/results/study/GROUP.json``; a killed one is resumed. Without
``--workdir`` nothing is trained, and figures and tables are made from the stored results again.
"""
import argparse
import base64
import json
from pathlib import Path

import numpy as np

from benchmarks.measure import environment
from benchmarks.study.design import GROUPS
from benchmarks.study.runs import ROOT, run
from morel_jax import use_compilation_cache

RESULTS = ROOT / "benchmarks" / "results" / "study"


def packed(flags):
    """bool[n] as text."""
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def main():
    """Runs groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[[], *(group.name for group in GROUPS)], metavar="GROUP")
    parser.add_argument("--workdir", type=Path)
    options = parser.parse_args()
    use_compilation_cache()
    for group in GROUPS:
        if options.workdir and (not options.groups or group.name in options.groups):
            networks = run(options.workdir, group)
            for network in networks:
                network.update(clean=packed(network["clean"]), robust=packed(network["robust"]))
            RESULTS.mkdir(parents=True, exist_ok=True)
            content = {"environment": environment("python -m benchmarks.study --workdir=DIR"), "networks": networks}
            (RESULTS / f"{group.name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
