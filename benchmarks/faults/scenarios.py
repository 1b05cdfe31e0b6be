"""The commands that are killed and whose files are damaged: where each starts, and what it must leave."""
import dataclasses
import os
import shutil
import time
from pathlib import Path

from benchmarks.faults import build_cache
from benchmarks.faults.compare import differences, is_unfinished, snapshot

CONFIGS = Path(__file__).parent / "configs"
CONFIG = f"--config={CONFIGS / 'smoke.py'}"
ARCHIVES = "archives"  # Folder of the data set's.
# Seconds between two looks at a folder that a command is writing.
_LOOK = 0.003


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command, given in a folder of its own.

    Attributes:
        name: of the scenario.
        module, arguments: the command; paths are relative to its folder.
        result: what it writes there, relative.
        after: name of the scenario in whose end it starts; empty: in an empty folder.
        optional: files that it may do without: removing one is no damage.
        killed: whether the campaign kills it; tests/training/test_killed.py kills single runs.
    """
    name: str
    module: str
    arguments: tuple
    result: str
    after: str = ""
    optional: tuple = ()
    killed: bool = True


SCENARIOS = {scenario.name: scenario for scenario in (
    Scenario("train", "morel_jax.train", (CONFIG, "--workdir=trained", "--noprogress"), "trained", killed=False),
    Scenario("sweep", "morel_jax.sweep", (CONFIG, "--sweep=preference:0.25,0.75", "--workdir=swept", "--noprogress"),
             "swept"),
    Scenario("evaluate", "morel_jax.evaluate",
             ("--workdir=trained", "--which=best,last", "--attacks=pgd20,apgd-ce,square", "--examples=30",
              "--report_card=0", "--save_images", "--noprogress"), "trained/evaluation", after="train"),
    Scenario("export", "morel_jax.export",
             ("--workdir=trained", "--format=stablehlo", "--format=safetensors", "--gradients", "--platforms=cpu"),
             "trained/exported", after="evaluate", optional=("trained/evaluation", "trained/metrics.jsonl")),
    Scenario("cache", "benchmarks.faults.build_cache", (ARCHIVES, "cache"), "cache"),
    Scenario("reproduce", "morel_jax.reproduce",
             (f"--configs={CONFIGS}", "--scale=smoke", "--table=3", "--root=reproduced", "--noprogress"), "reproduced"),
)}


def listing(folder):
    """{relative name: bytes} of the files below a folder, whoever changes it meanwhile."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            try:
                found[os.path.relpath(path, folder)] = os.stat(path).st_size
            except FileNotFoundError:
                continue
    return found


class Watch:
    """Counts the changes that a command makes to its folder."""

    def __init__(self, folder):
        self._folder, self.first = folder, listing(folder)
        self.last, self.changes = self.first, 0

    def look(self):
        now = listing(self._folder)
        self.changes += now != self.last
        self.last = now

    def until(self, child, seconds=float("inf"), changes=float("inf")):
        """Looks until the child has ended, or so many seconds passed, or so many changes were seen."""
        deadline = time.monotonic() + seconds
        while child.is_alive() and time.monotonic() < deadline and self.changes < changes:
            self.look()
            time.sleep(_LOOK)

    def found(self):
        """Where a kill fell: at the start, while a file was being written, or between two."""
        self.look()
        if self.last == self.first:
            return "before the first file"
        if any(is_unfinished(part) for name in self.last for part in Path(name).parts):
            return "while writing"
        return "between files"


@dataclasses.dataclass(frozen=True)
class Unbroken:
    """A scenario that ran to its end undisturbed.

    Attributes:
        scenario: Scenario.
        start, end: folders; the command turns a copy of the first into the second.
        result: snapshot of what it wrote.
        seconds: it took, with compiled programs at hand.
        changes: of the folder that were seen.
    """
    scenario: Scenario
    start: Path
    end: Path
    result: dict
    seconds: float
    changes: int

    @property
    def timeout(self):
        """Seconds after which a command hangs."""
        return 60 + 20 * self.seconds


class UnbrokenError(Exception):
    """A command that nobody disturbed fails, or two such runs end unlike."""


def copy(source, target):
    """A fresh copy of a folder, in place of whatever is at ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def run_unbroken(scenario, before, children, root):
    """Runs a scenario twice: the first run compiles, the second is measured.

    Args:
        scenario: Scenario.
        before: Unbroken in whose end it starts, or None.
        children: Children.
        root: folder for its own.

    Returns:
        Unbroken.

    Raises:
        UnbrokenError: it fails, or the two end unlike.
    """
    start, end = root / scenario.name / "start", root / scenario.name / "end"
    if before:
        copy(before.end, start)
    else:
        start.mkdir(parents=True)
    if scenario.name == "cache":
        (start / ARCHIVES).mkdir()
        build_cache.write_archives(start / ARCHIVES)
    results = []
    for _ in range(2):
        copy(start, end)
        child, watch = children.command(scenario.module, scenario.arguments, end), Watch(end)
        watch.until(child)
        ended = child.wait(None)
        if ended.status or ended.crashed:
            raise UnbrokenError(f"{scenario.name} ends with status {ended.status}:\n{ended.stderr}")
        results.append(snapshot(end / scenario.result))
    unlike = differences(*results)
    if unlike:
        raise UnbrokenError(f"two unbroken runs of {scenario.name} end unlike:\n" + "\n".join(unlike))
    return Unbroken(scenario, start, end, results[-1], ended.seconds, watch.changes)


def with_starts(names):
    """The Scenarios of these names, and those in whose ends they start, in an order that works."""
    wanted = set(names)
    for scenario in reversed(SCENARIOS.values()):
        if scenario.name in wanted and scenario.after:
            wanted.add(scenario.after)
    return [scenario for scenario in SCENARIOS.values() if scenario.name in wanted]
