"""The verdict of ``--attacks=fast`` against AutoAttack's, and what each costs, on one network after another.

``python -m benchmarks.fast --output=FOLDER quickstart/morel,0.1 quickstart/morel,0.1,quantised``: each network is a run
of `morel_jax.train` or of the quickstart, a radius in Linf and, on demand, a mask that hides its gradients: ``scaled``
multiplies the logits by 1000, ``quantised`` rounds pixels to 17 levels. Both are compiled before they are timed. It
prints a table; what is done is not evaluated again.
"""
import argparse
import csv
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from tabulate import tabulate

from morel_jax.evaluation import evaluate
from morel_jax.evaluation.trained import as_logits_fn, load_variables
from morel_jax.files import write_atomically

CONTENDERS = ("fast", "autoattack")
# Examples of the evaluation that compiles.
_WARM_UP = 8


def _scaled(logits_fn, x):
    return 1000 * logits_fn(x)


def _quantised(logits_fn, x):
    return logits_fn(jnp.round(x * 16) / 16)


_MASKS = {"scaled": _scaled, "quantised": _quantised}


def _broken(folder):
    """Places of the examples that at least one attack of an evaluation breaks, as a set."""
    with (folder / "ledger.csv").open() as file:
        return {row["index"] for row in csv.DictReader(file) if row["broken"] == "1"}


def measure(name, workdir, epsilon, mask, folder, examples):
    """One contender's accuracy, that after each of its attacks, and what it took, from a file if it is there."""
    path = folder / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    model, variables, _, dataset = load_variables(workdir, "best")
    logits_fn = as_logits_fn(model, variables)
    if mask:
        logits_fn = jax.tree_util.Partial(_MASKS[mask], logits_fn)
    for place, count in ((folder / f"{name}-warm-up", _WARM_UP), (folder / name, examples)):
        began, processor = time.monotonic(), time.process_time()
        summary = evaluate(logits_fn, dataset.test.images, dataset.test.labels, [name], place, epsilon=epsilon,
                           examples=count)
        seconds = time.monotonic() - began, time.process_time() - processor
    column = summary["attacks"][name]
    found = {"accuracy": column["accuracy"], "after": column["accuracy_after"], "seconds": seconds[0],
             "processor_seconds": seconds[1]}
    write_atomically(path, json.dumps(found, indent=1))
    return found


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="workdir,radius or workdir,radius,mask")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=500)
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        workdir, epsilon, *mask = network.split(",")
        name = ", ".join([Path(workdir).name, *mask])
        folder = options.output / f"{name.replace(', ', '-')}-{epsilon}"
        fast, standard = (measure(one, workdir, float(epsilon), *mask or [None], folder, options.examples)
                          for one in CONTENDERS)
        by_fast, by_standard = (_broken(folder / one) for one in CONTENDERS)
        rows.append([name, epsilon, *(100 * one["accuracy"] for one in (standard, fast)),
                     100 * (fast["accuracy"] - standard["accuracy"]), len(by_standard - by_fast),
                     len(by_fast - by_standard), standard["processor_seconds"], fast["processor_seconds"],
                     fast["processor_seconds"] / standard["processor_seconds"],
                     fast["seconds"] / standard["seconds"]])
        print(f"{name}: fast {fast}, AutoAttack {standard}", flush=True)
    print(tabulate(rows, ["network", "radius", "AutoAttack, %", "fast, %", "points more", "broken by AutoAttack alone",
                          "by fast alone", "AutoAttack, processor s", "fast, processor s", "ratio",
                          "ratio of wall times"],
                   tablefmt="github", floatfmt=("", "", ".1f", ".1f", "+.1f", "", "", ".0f", ".0f", ".2f", ".2f"),
                   disable_numparse=[1]))


if __name__ == "__main__":
    main()
