"""Robust accuracy by radius: one evaluation by minimum-norm attacks against one of AutoAttack at each radius.

``python benchmarks/radii.py --workdir=RUN [--norm=l2] [--examples=200]``: a run of `morel_jax.train` or of the
quickstart, such as ``quickstart/morel``. It writes evaluations into ``--output`` and prints a table of both; a killed
one is resumed.
"""
import argparse
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

from morel_jax.evaluation import distance_curve, evaluate
from morel_jax.evaluation.trained import as_logits_fn, load_variables


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--radii", type=int, default=10)
    options = parser.parse_args()
    model, variables, _, dataset = load_variables(options.workdir, "best")
    logits_fn = as_logits_fn(model, variables)

    def run(attacks, folder, epsilon):
        began = time.monotonic()
        summary = evaluate(logits_fn, dataset.test.images, dataset.test.labels, attacks, options.output / folder,
                           epsilon=epsilon, norm=options.norm, examples=options.examples)
        return summary, time.monotonic() - began

    names = ["fmn", "fab-t-minimal"] + ["ddn"] * (options.norm == "l2")
    seconds = {name: run([name], "minimal", 0.1)[1] for name in names}
    summary, _ = run(names, "minimal", 0.1)
    curves = {name: distance_curve(options.output / "minimal", name) for name in names}
    curves["all of them"] = distance_curve(options.output / "minimal")
    # Radii that break one image in eleven after another, of those that are classified correctly.
    radii = np.quantile(curves["all of them"].radii[1:], np.arange(1, options.radii + 1) / (options.radii + 1))
    rows, total = [], 0.0
    for radius in map(float, radii):
        found, taken = run(["autoattack"], f"autoattack-{radius:.5f}", radius)
        total += taken
        robust = 100 * found["attacks"]["autoattack"]["accuracy"]
        rows.append([radius, robust, *(100 * curve.at(radius) - robust for curve in curves.values())])
        print(rows[-1], f"{taken:.0f} s", flush=True)
    print(tabulate(rows, ["radius", "AutoAttack, %", *(f"{name}, points more" for name in curves)], floatfmt=".4g"))
    print(f"clean {100 * summary['clean']['accuracy']:.2f} %; AutoAttack at {len(radii)} radii {total:.0f} s; "
          + ", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items()))


if __name__ == "__main__":
    main()
