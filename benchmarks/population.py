"""Command: ``python -m benchmarks.population``: what a member of a population costs, against a run alone, interleaved.

For each model and number of members, on the same random images, in turn and several rounds over:

- ``ours, epoch``: one run alone, the compiled ``train_epoch``, a round's steps in one dispatch;
- ``population``, ``sequential`` and ``vmapped``: members with different preferences and seeds, the compiled program of
  ``fit_population``, as many steps of each in one dispatch.

Each round runs every contender once, in a rotated order; costs are compared within rounds. All devices of the process
are used, so that with more than one the members are cut over them and the run alone uses one.
"""
import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.measure import QUIET, Contender, OtherPrograms, environment, measure, ratio
from benchmarks.train_step import Ours, benchmark_config, random_data
from morel_jax.data import Dataset, Split
from morel_jax.training.custom import CustomParts
from morel_jax.training.members import build_members
from morel_jax.training.placement import MODES, Stacked
from morel_jax.training.setup import INITIAL, STEP, setup

_CLASSES = 10
_IMAGES = 1024  # A small data set is enough to gather batches from.


def settings_of(count):
    """Settings of ``count`` members: preferences from 0.1 to 0.9, or 0.5 alone, and seeds."""
    preferences = np.linspace(0.1, 0.9, count) if count > 1 else [0.5]
    return [{"preference": round(float(k), 4), "seed": seed} for seed, k in enumerate(preferences)]


class Population:
    """The members' program, compiled.

    Args:
        config: base ConfigDict.
        count: members.
        mode: ``sequential`` or ``vmapped``.
        data: (images uint8[m, h, w, c], labels int32[m]).
        rows: int32[k, n], the examples of each step.

    Attributes:
        contender: Contender; a step is one of every member.
        compile_seconds: tracing and compiling.
    """

    def __init__(self, config, count, mode, data, rows):
        members = build_members(config, settings_of(count))
        split = Split(*data)
        dataset = Dataset("random", split, split, _CLASSES, tuple(map(str, range(_CLASSES))))
        made, seeds = setup(config, CustomParts(dataset)), [member.config.seed for member in members]
        self._placement = placement = Stacked.over_local_devices(count, mode)
        self._no_totals = [made.no_totals()] * count
        self._state = placement.states(placement.new_states(made, seeds, INITIAL))
        piece, *_ = next(placement.feed(split, "device").pieces(placement.orders([rows] * count), 0))
        self._arguments = (placement.hparams([made.hparams(member.config, 1) for member in members]), piece,
                           placement.keys(seeds, STEP))
        self._finite = True
        began = time.perf_counter()
        train, _ = placement.compile(made.parts)
        self._train = train.lower(self._state, self._totals(), *self._arguments, *self._bounds(1)).compile()
        self.compile_seconds = time.perf_counter() - began
        options = {"mode": mode, "members": str(count), "precision": config.model.precision}
        self.contender = Contender("population", options, self._run, lambda: self._finite)

    def _totals(self):
        return self._placement.totals(self._no_totals)

    def _bounds(self, steps):
        return np.int32(0), self._placement.stops(steps, 0, slice(None))

    def _run(self, steps):
        self._state, totals = self._train(self._state, self._totals(), *self._arguments, *self._bounds(steps))
        self._finite &= bool((np.asarray(totals.first_bad_step) < 0).all())
        jax.block_until_ready(self._state)


def compare(model, count, options):
    """All contenders of one model and number of members; a dict for the JSON file."""
    config = benchmark_config(options.method, model, options.batch_size)
    data = random_data(options.seed, max(_IMAGES, options.batch_size))
    rows = np.random.default_rng(options.seed).integers(
        0, len(data[1]), (options.steps, options.batch_size)).astype(np.int32)
    ours = Ours(config, data, rows)
    alone = ours.contenders()[0]
    populations = {mode: Population(config, count, mode, data, rows) for mode in MODES}
    others = OtherPrograms()
    seconds = measure([alone, *(population.contender for population in populations.values())], options.rounds,
                      options.steps)
    result = {"model": model, "method": options.method, "batch_size": options.batch_size, "members": count,
              "steps": options.steps, "alone": {
                  "seconds": seconds[alone.label], "median_seconds": statistics.median(seconds[alone.label]),
                  "compile_seconds": sum(ours.compilation[f"{kind}_seconds"] for kind in ("trace", "compile")),
                  "finite": alone.finite()}}
    for mode, population in populations.items():
        a_member = [value / count for value in seconds[population.contender.label]]
        result[mode] = {"seconds_a_member": a_member, "median_seconds_a_member": statistics.median(a_member),
                        "cost_of_a_member": ratio(seconds[alone.label], a_member),
                        "compile_seconds": population.compile_seconds, "finite": population.contender.finite()}
    return result | {"processors_used_by_others": others.used()}


def table(results):
    """Text for people: a line for each model, number of members and mode."""
    lines = [f"{'model':<16}{'batch':>6}{'members':>9}  {'mode':<12}{'ms/step, a member':>19}{'compile s':>11}  "
             "cost of a member, alone = 1"]
    for result in results:
        start = f"{result['model']:<16}{result['batch_size']:>6}{result['members']:>9}  "
        alone = result["alone"]
        lines.append(f"{start}{'alone':<12}{1000 * alone['median_seconds']:>19.1f}{alone['compile_seconds']:>11.1f}")
        for mode in MODES:
            r = result[mode]
            cost = r["cost_of_a_member"]
            lines.append(f"{start}{mode:<12}{1000 * r['median_seconds_a_member']:>19.1f}{r['compile_seconds']:>11.1f}  "
                         f"{cost['median']:.2f} ({cost['min']:.2f}-{cost['max']:.2f})"
                         + ("" if r["finite"] else " NOT FINITE"))
    return "\n".join([*lines, "", "Medians over rounds; in brackets the least and the greatest of a round."])


def main(argv=None):
    """Measures, writes the JSON file and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--models", default="convnet_small,resnet18", help="separated by commas")
    add("--members", default="9", help="numbers of members, separated by commas")
    add("--method", default="morel_mart")
    add("--batch_size", type=int, default=8)
    add("--steps", type=int, default=4, help="of each member, in a round")
    add("--rounds", type=int, default=5)
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=None, help="default: benchmarks/results/population_<device>.json")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_compilation_cache", False)  # A compile time is to be one.
    command = " ".join(["python -m benchmarks.population", *(sys.argv[1:] if argv is None else argv)])
    report = {"environment": environment(command), "results": []}
    kind = jax.devices()[0].device_kind.lower().replace(" ", "_")
    output = options.output or Path(__file__).parent / "results" / f"population_{kind}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    for model in options.models.split(","):
        for count in map(int, options.members.split(",")):
            print(f"{model}, {count} members ...", file=sys.stderr, flush=True)
            report["results"].append(compare(model, count, options))
            # After each, so that a run that is stopped leaves what it has.
            report["load_average_after"] = os.getloadavg()
            output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["results"]))
    busiest = max(result["processors_used_by_others"] or 0.0 for result in report["results"])
    if busiest > QUIET:
        print(f"NOT QUIET: other programs used {busiest:.1f} processors; these numbers say little.")
    print(f"\n{output}")
    return report


if __name__ == "__main__":
    main()
