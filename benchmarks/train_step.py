"""Command: ``python -m benchmarks.train_step``: seconds a training step, ours against PyTorch's, interleaved.

For every method and batch size, on the same random images from the same weights, in turn and several rounds over:

- ``ours, epoch``: the compiled ``train_epoch`` as ``fit`` runs it, many steps in one dispatch, augmentation included;
- ``ours, step``: the same program one step a dispatch, waited for each time;
- ``torch redundant``: PyTorch with the reference implementation's passes, in each memory format;
- ``torch lean``: PyTorch with no pass that is not needed, in each memory format and precision;
- ``advermorel``: the step of the authors' own package, where it is installed, in each memory format.

Each round runs every contender once, in a rotated order; speeds are compared within rounds. ``reference`` settings:
epsilon 0.031, step 0.007, PGD-10 from x + 0.001 N(0, 1) under running statistics, SGD with momentum 0.9 and weight
decay. tests/benchmarks shows that all of them make the same update. With ``--sweep_batch_sizes`` only ours runs:
images a second by batch size.
"""
import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import QUIET, Contender, OtherPrograms, environment, measure, ratio
from benchmarks.torch_contenders import package_missing, settle_torch, torch_contenders, torch_device
from morel_jax import configuration
from morel_jax.models.precision import PRECISIONS
from morel_jax.training.epoch import Piece, compile_train_epoch, empty_totals
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch

_METHODS = ("trades", "mart", "morel_trades", "morel_mart")
_CLASSES = 10
_IMAGES = 1024  # A small data set is enough to gather batches from.
# Random labels cannot be learnt; a low rate keeps the numbers finite for as many steps as are measured.
_LEARNING_RATE = 1e-3


def benchmark_config(method, model, batch_size, precision="tf32"):
    """The ``reference`` recipe of a method, checked, with a learning rate that random labels do not blow up.

    Args:
        method: trades, mart, morel_trades or morel_mart.
        model: name for ``morel_jax.models.create``.
        batch_size: images a step.
        precision: of the network, a name in ``morel_jax.models.precision.PRECISIONS``.

    Returns:
        ConfigDict.
    """
    config = configuration.recipe(f"{model},{method},reference")
    config.batch_size = batch_size
    config.model.precision = precision
    config.optimizer.learning_rate = _LEARNING_RATE
    configuration.check(config)
    return config


def random_data(seed, count):
    """(images uint8[count, 32, 32, 3], labels int32[count]), uniform."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, _CLASSES, count).astype(np.int32))


class Ours:
    """Our step, compiled once for both ways to dispatch it.

    Args:
        config: ConfigDict.
        data: (images uint8[m, h, w, c], labels int32[m]).
        rows: int32[k, n], the examples of each step.

    Attributes:
        weights: (the network's variables, the embedding space's parameters or None), initial, as numpy arrays.
        compilation: dict: trace and compile seconds, and bytes of the compiled program by kind.
    """

    def __init__(self, config, data, rows):
        self._config = config
        parts = build_parts(config, _CLASSES)
        self._hparams = build_hparams(config, epoch=1)
        shape, n = data[0].shape[1:], rows.shape[1]
        self._piece = Piece(*jax.device_put((*data, rows, rows)))
        self._key = jax.random.key(config.seed)
        self._fresh_state = jax.jit(lambda key: create_state(parts, key, shape, self._hparams, average=False))
        state = self._fresh_state(self._key)
        self.weights = jax.tree.map(np.asarray, (
            {"params": state.params["classifier"], "batch_stats": state.batch_stats}, state.params.get("embedding")))
        batch = Batch(*(jax.ShapeDtypeStruct((n, *inner), dtype) for inner, dtype in (
            (shape, np.uint8), ((), np.int32), ((), np.int32))))
        self._no_totals = empty_totals(state, self._hparams, batch, self._key, parts=parts)
        began = time.perf_counter()
        lowered = compile_train_epoch(parts).lower(*self._arguments(state, self._no_totals, 0, 1))
        traced = time.perf_counter()
        self._train_epoch = lowered.compile()
        memory = self._train_epoch.memory_analysis()
        self.compilation = {
            "trace_seconds": traced - began, "compile_seconds": time.perf_counter() - traced,
            "bytes": {kind: getattr(memory, f"{kind}_size_in_bytes", None)
                      for kind in ("temp", "argument", "output", "alias", "generated_code")}}

    def _arguments(self, state, totals, start, stop):
        return state, totals, self._hparams, self._piece, self._key, np.int32(start), np.int32(stop)

    def contenders(self):
        """One for each way to dispatch; each trains weights of its own."""
        return [self._contender("ours, epoch", one_dispatch=True), self._contender("ours, step", one_dispatch=False)]

    def _contender(self, name, one_dispatch):
        state, finite = self._fresh_state(self._key), True

        def run(steps):
            nonlocal state, finite
            totals = self._no_totals
            pieces = [(0, steps)] if one_dispatch else [(i, i + 1) for i in range(steps)]
            for start, stop in pieces:
                state, totals = self._train_epoch(*self._arguments(state, totals, start, stop))
                # What `fit` looks at after each dispatch, and so waits for.
                finite &= int(totals.first_bad_step) < 0
            jax.block_until_ready(state)

        return Contender(name, {"precision": self._config.model.precision}, run, lambda: finite)


def _best(results, name, precision=None):
    """Label of a baseline's memory format with the lower median, or None; in one precision, or whatever it ran in."""
    labels = [label for label, r in results.items()
              if r["name"] == name and precision in (None, r["options"]["precision"])]
    return min(labels, key=lambda label: results[label]["median_seconds"], default=None)


def summarise(contenders, seconds, batch_size):
    """Medians, images a second and ratios to the better memory format of each PyTorch step.

    Args:
        contenders: list of Contender.
        seconds: what ``measure`` returned for them.
        batch_size: images a step.

    Returns:
        {label: dict}. ``to_lean`` compares with the lean step of the contender's own precision, ``to_redundant`` and
        ``to_package`` with the one that there is. Each is None where that did not run.
    """
    results = {c.label: {
        "name": c.name, "options": c.options, "seconds": seconds[c.label],
        "median_seconds": statistics.median(seconds[c.label]),
        "images_per_second": batch_size / statistics.median(seconds[c.label]), "finite": c.finite()}
        for c in contenders}
    for result in results.values():
        baselines = {"to_redundant": _best(results, "torch redundant"), "to_package": _best(results, "advermorel"),
                     "to_lean": _best(results, "torch lean", result["options"]["precision"])}
        for field, label in baselines.items():
            result[field] = None if label is None else ratio(result["seconds"], results[label]["seconds"])
    return results


def compare(method, batch_size, steps, options, device):
    """All contenders of one method and batch size.

    Args:
        method: a method's name.
        batch_size: images a step.
        steps: steps a round.
        options: the command line's.
        device: torch.device, or None for ours alone.

    Returns:
        dict for the JSON file.
    """
    data = random_data(options.seed, max(_IMAGES, batch_size))
    rows = _rows(options, len(data[1]), steps, batch_size)
    ours = {precision: Ours(benchmark_config(method, options.model, batch_size, precision), data, rows)
            for precision in options.precision}
    contenders = [c for each in ours.values() for c in each.contenders()]
    if device is not None:
        weights = next(iter(ours.values())).weights
        config = benchmark_config(method, options.model, batch_size)
        contenders += torch_contenders(config, _CLASSES, weights, device, data, rows, options.memory_formats,
                                         options.precision)
    others = OtherPrograms()
    seconds = measure(contenders, options.rounds, steps, options.warmup_steps)
    return {"method": method, "batch_size": batch_size, "steps": steps,
            "compilation": {precision: o.compilation for precision, o in ours.items()},
            "contenders": summarise(contenders, seconds, batch_size), "peak_bytes": _peak_bytes(),
            "processors_used_by_others": others.used()}


def sweep(method, steps_by_size, options):
    """Ours alone, one dispatch a round, batch sizes and precisions interleaved; a list of dicts as ``compare``'s."""
    points, contenders = [], []
    for batch_size, steps in steps_by_size.items():
        data = random_data(options.seed, max(_IMAGES, batch_size))
        rows = _rows(options, len(data[1]), steps, batch_size)
        for precision in options.precision:
            ours = Ours(benchmark_config(method, options.model, batch_size, precision), data, rows)
            epoch, _ = ours.contenders()
            epoch = dataclasses.replace(epoch, options=epoch.options | {"batch_size": str(batch_size)})
            contenders.append(epoch)
            points.append((batch_size, steps, precision, ours, epoch))
    others = OtherPrograms()
    seconds = measure(contenders, options.rounds, {p[-1].label: p[1] for p in points}, options.warmup_steps)
    used = others.used()
    return [{"method": method, "batch_size": batch_size, "steps": steps,
             "compilation": {precision: ours.compilation}, "contenders": summarise([epoch], seconds, batch_size),
             "processors_used_by_others": used}
            for batch_size, steps, precision, ours, epoch in points]


def _rows(options, count, steps, batch_size):
    rng = np.random.default_rng(options.seed)
    return rng.integers(0, count, (max(steps, options.warmup_steps), batch_size)).astype(np.int32)


def _peak_bytes():
    """Peaks of the accelerator's memory since the process began, by library; None on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peaks = {"jax": stats.get("peak_bytes_in_use")}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peaks["torch"] = torch.cuda.max_memory_allocated()
    return peaks


def _format_ratio(value):
    return "" if value is None else f"{value['median']:.2f} ({value['min']:.2f}-{value['max']:.2f})"


def table(results):
    """Text for people: a line a contender, then what compiling took."""
    lines = [f"{'method':<14}{'batch':>6}  {'contender':<42}{'ms/step':>10}{'images/s':>10}  "
             f"{'times advermorel':<24}{'times torch redundant':<24}{'times torch lean':<24}"]
    for result in results:
        for label, r in result["contenders"].items():
            lines.append(
                f"{result['method']:<14}{result['batch_size']:>6}  {label:<42}{1000 * r['median_seconds']:>10.1f}"
                f"{r['images_per_second']:>10.1f}  "
                f"{''.join(f'{_format_ratio(r[field]):<24}' for field in ('to_package', 'to_redundant', 'to_lean'))}"
                f"{'' if r['finite'] else 'NOT FINITE'}".rstrip())
    lines += ["", f"{'method':<14}{'batch':>6}  {'precision':<10}{'trace s':>9}{'compile s':>11}{'temporary MiB':>15}"
              f"{'argument MiB':>14}"]
    for result in results:
        for precision, c in result["compilation"].items():
            temporary, argument = ((c["bytes"][kind] or 0) / 2**20 for kind in ("temp", "argument"))
            lines.append(f"{result['method']:<14}{result['batch_size']:>6}  {precision:<10}{c['trace_seconds']:>9.2f}"
                         f"{c['compile_seconds']:>11.2f}{temporary:>15.1f}{argument:>14.1f}")
    lines += ["", "Medians over rounds; in brackets the least and the greatest ratio of a round. PyTorch counts with "
              "its better memory format."]
    return "\n".join(lines)


def _list_of(convert, known=None):
    def parse(text):
        values = tuple(convert(entry) for entry in text.split(",") if entry)
        if known is not None and not set(values) <= set(known):
            raise argparse.ArgumentTypeError(f"must be some of {','.join(known)}; got {text!r}.")
        if not values or (convert is int and min(values) < 1):
            raise argparse.ArgumentTypeError(f"must be values separated by commas, at least 1; got {text!r}.")
        return values
    return parse


def parse_arguments(argv):
    """The command line as a namespace; lists as tuples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--methods", type=_list_of(str, _METHODS), default=("trades", "mart"), help=",".join(_METHODS))
    add("--model", default="resnet18", help="a ResNet of basic blocks")
    add("--batch_sizes", type=_list_of(int), default=(8, 64))
    add("--sweep_batch_sizes", type=_list_of(int), default=(), help="measure ours alone, at these")
    add("--rounds", type=int, default=5)
    add("--steps", type=_list_of(int), default=(4,), help="a round: one number, or one for each batch size")
    add("--warmup_steps", type=int, default=1, help="before the first round")
    add("--precision", type=_list_of(str, PRECISIONS), default=("tf32",),
        help=f"of ours and of the lean PyTorch step; of {','.join(PRECISIONS)}")
    add("--memory_formats", type=_list_of(str, ("contiguous", "channels_last")),
        default=("contiguous", "channels_last"), help="of the PyTorch steps")
    add("--threads", type=int, default=0, help="processors that both libraries may use; 0: as they come")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=None, help="default: benchmarks/results/train_step_[sweep_]<device>.json")
    options = parser.parse_args(argv)
    sizes = options.sweep_batch_sizes or options.batch_sizes
    if len(options.steps) not in (1, len(sizes)):
        parser.error(f"--steps must be one number or one for each of {len(sizes)} batch sizes; got {options.steps}.")
    for name in ("rounds", "warmup_steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(options, name)}.")
    steps = options.steps * len(sizes) if len(options.steps) == 1 else options.steps
    options.steps_by_size = dict(zip(sizes, steps, strict=True))
    return options


def _limit_threads(count):
    """Before either library starts its threads: XLA makes as many as there are processors to use."""
    if count:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _command(argv):
    return " ".join(["python -m benchmarks.train_step", *(sys.argv[1:] if argv is None else argv)])


def main(argv=None):
    """Measures, writes the JSON file and prints the table."""
    options = parse_arguments(argv)
    _limit_threads(options.threads)
    # PyTorch needs room beside JAX on a GPU; and a compile time is to be one.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)
    device, why_not = (None, "only ours is swept.") if options.sweep_batch_sizes else torch_device()
    if device is not None:
        settle_torch(options.threads, options.seed, device)
    report: dict[str, Any] = {"environment": environment(_command(argv)), "torch_not_compared": why_not, "results": [],
                              "options": {name: str(value) if isinstance(value, Path) else value
                                          for name, value in vars(options).items()}}
    kind = jax.devices()[0].device_kind.lower().replace(" ", "_")
    name = f"train_step_{'sweep_' if options.sweep_batch_sizes else ''}{kind}.json"
    output = options.output or Path(__file__).parent / "results" / name
    output.parent.mkdir(parents=True, exist_ok=True)
    for method in options.methods:
        if options.sweep_batch_sizes:
            report["results"] += sweep(method, options.steps_by_size, options)
        else:
            for batch_size, steps in options.steps_by_size.items():
                print(f"{method}, batch {batch_size} ...", file=sys.stderr, flush=True)
                report["results"].append(compare(method, batch_size, steps, options, device))
        # After each, so that a run that is stopped leaves what it has.
        report["load_average_after"] = os.getloadavg()
        output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["results"]))
    busiest = max(result["processors_used_by_others"] or 0.0 for result in report["results"])
    if busiest > QUIET:
        print(f"NOT QUIET: other programs used {busiest:.1f} processors; these numbers say little.")
    if why_not:
        print(f"PyTorch was not compared: {why_not}")
    elif (missing := package_missing()):
        print(missing)
    print(f"\n{output}")
    return report


if __name__ == "__main__":
    main()
