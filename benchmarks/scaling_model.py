"""Command: ``python -m benchmarks.scaling_model --config=configs/cifar10.py:resnet18,morel_mart,paper``.

What a step costs on many devices, from counts of the compiled program and five numbers of a machine. The step is
compiled for eight H100, which need not be there (the extra ``aot``), without data. Counted are FLOPs that the devices
share, FLOPs of the embedding space, which each device computes for the whole batch, and bytes and number of exchanges:
sums, which do not grow with the batch, and gathers, which do. The machine's numbers are the vendor's or a guess; none
is measured here.
"""
import argparse
import dataclasses
import importlib.util
import json
import math
import sys
from functools import partial
from pathlib import Path

import jax

from benchmarks.measure import environment
from morel_jax.targets.dry_run import dry_run
from morel_jax.targets.flops import count_flops
from morel_jax.training.setup import setup
from morel_jax.training.step import train_step

_DEVICES = (1, 2, 4, 8, 16, 64, 256, 1024)
_ROWS = (1, 8, 32, 128)
_SMALL = 2**14  # Bytes: BatchNorm's statistics and what else waits for latency alone. Larger ones can be joined.


@dataclasses.dataclass(frozen=True)
class Machine:
    """Numbers of a machine.

    Attributes:
        flops: of one device, that a step attains, a second.
        hosts: devices in one host.
        inside, outside: bytes a second that a device sends within its host, and to other hosts.
        latency: seconds that an exchange takes at least for each doubling of the devices.
    """
    flops: float
    hosts: int
    inside: float
    outside: float
    latency: float


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of a step; n is the whole batch.

    Attributes:
        flops_a_row: shared by the devices.
        embedding_a_row, embedding_a_pair: FLOPs that every device does, times n and times n squared.
        reduced: bytes of all-reduces, for any n.
        gathered_a_row: bytes of gathered rows, times n.
        exchanges: how many are too small for anything but latency to count.
    """
    flops_a_row: float
    embedding_a_row: float
    embedding_a_pair: float
    reduced: float
    gathered_a_row: float
    exchanges: int


def seconds(counts, machine, devices, rows):
    """Seconds of a step of ``rows`` images a device on ``devices`` devices, by what they go to.

    Returns:
        dict with ``network``, ``embedding``, ``reductions``, ``gathers`` and ``latency``.
    """
    n = rows * devices
    bandwidth = machine.inside if devices <= machine.hosts else machine.outside
    share = (devices - 1) / devices
    return {
        "network": counts.flops_a_row * rows / machine.flops,
        "embedding": (counts.embedding_a_row * n + counts.embedding_a_pair * n * n) / machine.flops,
        "reductions": 2 * share * counts.reduced / bandwidth,  # A ring sends everything twice.
        "gathers": share * counts.gathered_a_row * n / bandwidth,
        "latency": counts.exchanges * machine.latency * math.log2(devices),
    }


def _load(spec):
    path, _, argument = spec.partition(":")
    module_spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.get_config(argument)


def _flops(config, n):
    """FLOPs of a step of n images, without compiling it."""
    config = config.copy_and_resolve_references()
    config.batch_size = n
    blank = setup(config, blank=True)
    return count_flops(partial(train_step, parts=blank.parts), *blank.step_arguments)


def count(config, target):
    """:class:`Counts` of a config's step, compiled for ``target``; None: the devices at hand."""
    baseline = config.copy_and_resolve_references()
    baseline.method = config.method.removeprefix("morel_")
    n = config.batch_size
    shared = _flops(baseline, n) / n
    # a n + c n^2 through two points.
    once, twice = _flops(config, n) - shared * n, _flops(config, 2 * n) - shared * 2 * n
    pair = (twice - 2 * once) / (2 * n**2)
    found = dry_run(config, target).collectives

    def bytes_of(kind):
        return sum(one.bytes * one.count for one in found if one.kind == kind)

    return Counts(flops_a_row=shared, embedding_a_row=once / n - pair * n, embedding_a_pair=pair,
                  reduced=bytes_of("all-reduce"), gathered_a_row=bytes_of("all-gather") / n,
                  exchanges=sum(one.count for one in found if one.bytes <= _SMALL))


def to_markdown(counts, machine):
    """The model as a table: milliseconds of a step, the largest cost beside the network's, and the network's share."""
    lines = ["| devices | images a device | batch | step, ms | network's share | next largest |",
             "|---|---|---|---|---|---|"]
    for devices in _DEVICES:
        for rows in _ROWS:
            parts = seconds(counts, machine, devices, rows)
            total = sum(parts.values())
            name, most = max(((name, value) for name, value in parts.items() if name != "network"),
                             key=lambda item: item[1])
            lines.append(f"| {devices} | {rows} | {devices * rows} | {1e3 * total:.2f} | "
                         f"{100 * parts['network'] / total:.0f} % | {name} {100 * most / total:.0f} % |")
    return "\n".join(lines)


def main(argv):
    """Counts, and prints the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/cifar10.py:resnet18,morel_mart,paper")
    parser.add_argument("--target", default="h100:8", help="to compile for; cpu: eight fake devices of this machine")
    parser.add_argument("--batch_size", type=int, default=64, help="to compile for")
    parser.add_argument("--flops", type=float, default=20e12, help="a device's, attained")
    parser.add_argument("--hosts", type=int, default=8, help="devices of a host")
    parser.add_argument("--inside", type=float, default=450e9, help="bytes a second within a host")
    parser.add_argument("--outside", type=float, default=50e9, help="bytes a second between hosts, a device")
    parser.add_argument("--latency", type=float, default=5e-6, help="seconds an exchange and doubling of devices")
    parser.add_argument("--output", help="JSON file")
    flags = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", 8)
    config = _load(flags.config)
    config.batch_size = flags.batch_size
    counts = count(config, None if flags.target == "cpu" else flags.target)
    machine = Machine(flags.flops, flags.hosts, flags.inside, flags.outside, flags.latency)
    print(json.dumps(dataclasses.asdict(counts), indent=1))
    print(to_markdown(counts, machine))
    if flags.output:
        Path(flags.output).write_text(json.dumps({
            "config": flags.config, "target": flags.target, "counts": dataclasses.asdict(counts),
            "machine": dataclasses.asdict(machine),
            "seconds": [{"devices": devices, "rows": rows} | seconds(counts, machine, devices, rows)
                        for devices in _DEVICES for rows in _ROWS],
            "environment": environment("python -m benchmarks.scaling_model " + " ".join(
                flag for flag in argv if not flag.startswith("--output")))}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
