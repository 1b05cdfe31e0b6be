"""Measuring contenders in turn, and what machine it was done on; for every benchmark here."""
import dataclasses
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import jax

# Idle threads of one library spin for a while before they sleep; the next contender starts after that.
_SETTLE_SECONDS = 0.3
# Processors that the system's own background may use on a machine that is called quiet.
QUIET = 0.1


@dataclasses.dataclass
class Contender:
    """One way to train.

    Attributes:
        name: of the contender, without its options.
        options: dict of names, what tells it from others of its name: precision, memory_format.
        run: number of steps -> None; returns when they are done.
        finite: () -> bool, whether the numbers still are; once they are not, they stay so.
    """
    name: str
    options: dict[str, str]
    run: Callable[[int], None]
    finite: Callable[[], bool]

    @property
    def label(self):
        """Name and options, unique in its round."""
        return ", ".join([self.name, *self.options.values()])


def measure(contenders, rounds, steps, warmup_steps=1, settle=_SETTLE_SECONDS):
    """Runs every contender once a round, each round starting with the next one.

    Args:
        contenders: list of Contender.
        rounds: how often each runs, after its warm-up.
        steps: in each run; one number for all, or a dict by label.
        warmup_steps: run before the first round, not measured.
        settle: seconds of silence before each run.

    Returns:
        {label: [seconds a step in each round]}.
    """
    for contender in contenders:
        contender.run(warmup_steps)
    seconds = {contender.label: [] for contender in contenders}
    for first in range(rounds):
        first %= len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            count = steps[contender.label] if isinstance(steps, dict) else steps
            gc.collect()
            time.sleep(settle)
            began = time.perf_counter()
            contender.run(count)
            seconds[contender.label].append((time.perf_counter() - began) / count)
    return seconds


def ratio(seconds, baseline):
    """How many times as fast as a baseline, within each round.

    Args:
        seconds, baseline: floats, one a round, of the same rounds.

    Returns:
        {"median", "min", "max", "rounds"} of baseline / seconds.
    """
    rounds = [b / s for b, s in zip(baseline, seconds, strict=True)]
    return {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds), "rounds": rounds}


class OtherPrograms:
    """How much of the machine other programs use from now on: a busy one slows PyTorch's OpenMP threads, which wait
    for one another spinning, several times more than XLA's."""

    def __init__(self):
        self._began, self._before = time.perf_counter(), self._seconds()

    @staticmethod
    def _seconds():
        stat = Path("/proc/stat")
        if not stat.exists():
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()

    def used(self):
        """Processors that others kept busy since, on average; None where the system does not tell."""
        if self._before is None:
            return None
        return (self._seconds() - self._before) / (time.perf_counter() - self._began)


def environment(command):
    """Versions, devices, processor and threads: dict of plain values; ``command`` is what a person would type."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "morel_jax")
    installed = {d.metadata["Name"].lower().replace("-", "_"): d.version for d in metadata.distributions()}
    found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command,
             "python": platform.python_version(), "platform": platform.platform(),
             "packages": {name: installed.get(name) for name in packages}, "commit": _commit(),
             "processor": _processor(), "processors": os.cpu_count(), "processors_usable": _usable_processors(),
             "load_average": os.getloadavg(), "jax_backend": jax.default_backend(),
             "jax_devices": [device.device_kind for device in jax.devices()],
             "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "JAX_PLATFORMS")
                       if name in os.environ}}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = {"threads": torch.get_num_threads(), "cuda": torch.version.cuda,
                          "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                          "float32_matmul_precision": torch.get_float32_matmul_precision()}
    return found


def _usable_processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _commit():
    here = Path(__file__).parent
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True,
                               check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
