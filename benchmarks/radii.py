"""Robust accuracy by radius: one evaluation by minimum-norm attacks against one of AutoAttack at each radius.

``python -m benchmarks.radii --workdir=RUN --output=FOLDER --radii=0.05,0.1,0.15``: a run of `morel_jax.train` or of the
quickstart, such as ``quickstart/morel``. It prints a table of both; a killed one is resumed.
"""
import argparse
import time
from pathlib import Path

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
    parser.add_argument("--radii", type=lambda text: [float(one) for one in text.split(",")], required=True)
    options = parser.parse_args()
    model, variables, _, dataset = load_variables(options.workdir, "best")
    logits_fn = as_logits_fn(model, variables)

    def run(attacks, folder, epsilon):
        began = time.monotonic()
        summary = evaluate(logits_fn, dataset.test.images, dataset.test.labels, attacks, options.output / folder,
                           epsilon=epsilon, norm=options.norm, examples=options.examples)
        return summary, time.monotonic() - began

    names = ["fmn", "fmn-t", "fab-t-minimal"] + ["ddn"] * (options.norm == "l2")
    seconds = {name: run([name], "minimal", 0.1)[1] for name in names}
    summary, _ = run(names, "minimal", 0.1)
    curves = {name: distance_curve(options.output / "minimal", name) for name in names}
    run(["minimal"], "minimal", 0.1)
    curves["minimal"] = distance_curve(options.output / "minimal")
    rows, total = [], 0.0
    for radius in options.radii:
        found, taken = run(["autoattack"], f"autoattack-{radius}", radius)
        total += taken
        robust = 100 * found["attacks"]["autoattack"]["accuracy"]
        rows.append([str(radius), robust, *(100 * curve.at(radius) - robust for curve in curves.values())])
        print(f"{radius}: {robust:.1f} %, {taken:.0f} s", flush=True)
    header = ["radius", "AutoAttack, %", *(f"{name}, points more" for name in curves)]
    print(tabulate(rows, header, floatfmt=".1f", disable_numparse=[0]))
    print(f"clean {100 * summary['clean']['accuracy']:.2f} %; AutoAttack at {len(options.radii)} radii {total:.0f} s; "
          + ", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items()))


if __name__ == "__main__":
    main()
