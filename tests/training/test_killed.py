import collections
import json
import multiprocessing
import random
import time

import chex
import pytest

from tests.small import newest_checkpoint, without_clocks
from tests.training import killed_run
from tests.training.killed_run import EPOCHS, PHASES, fit

KILLS = 25
# A run is cut into about so many pieces.
PIECES = 25


class _Children:
    """Processes that are forked from one with all imports done, which makes them quick to start."""

    def __init__(self, compiled):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([killed_run.__name__])
        self._compiled = compiled
        self.phase = self._context.RawValue("i", 0)

    def start(self, workdir):
        self.phase.value = 0
        process = self._context.Process(target=killed_run.run, args=(workdir, self._compiled, self.phase))
        process.start()
        return process

    def wait_until_it_works(self, process):
        while self.phase.value == 0 and process.is_alive():
            time.sleep(0.002)


def _reached(workdir):
    ledgers = (workdir / "evaluation").rglob("*.csv")
    return newest_checkpoint(workdir), sum(path.stat().st_size for path in ledgers)


def _evaluation(workdir):
    return {path.relative_to(workdir): path.read_bytes() for path in (workdir / "evaluation").rglob("*")
            if path.is_file()}


@pytest.mark.slow
def test_killed_many_times_ends_bitwise_the_same(tmp_path):
    """kill -9 at random moments of training and evaluation.

    Should it end before there were enough, some in each phase and some during a save, another run bears the rest.
    """
    children = _Children(tmp_path / "compiled")
    for name in ("compiling", "unbroken"):
        process = children.start(tmp_path / name)
        children.wait_until_it_works(process)
        began = time.monotonic()
        process.join()
        worked = time.monotonic() - began
        assert process.exitcode == 0

    moment = random.Random(0)
    began, fell, saving, runs = time.monotonic(), collections.Counter(), 0, []

    def enough():
        return fell.total() >= KILLS and set(fell) == set(PHASES) and saving > 0

    while not enough():
        workdir = tmp_path / f"broken{len(runs)}"
        runs.append(workdir)
        patience = 1.0
        while True:
            reached, process = _reached(workdir), children.start(workdir)
            if moment.random() < 0.9:
                children.wait_until_it_works(process)
            process.join(None if enough() else moment.uniform(0, 2 * patience * worked / PIECES))
            if process.exitcode is not None:
                assert process.exitcode == 0
                break
            process.kill()
            process.join()
            fell[PHASES[children.phase.value]] += 1
            saving += any((workdir / "checkpoints").glob("*/*tmp*"))
            # On a machine that does other things too a life may be too short to get anywhere.
            patience = 1.5 * patience if _reached(workdir) == reached else 1.0
    print(f"{fell.total()} kills of {len(runs)} runs in {time.monotonic() - began:.0f} s: {dict(fell)}, of which "
          f"{saving} while a checkpoint was being written")

    state, history = fit(tmp_path / "unbroken")
    assert len(history) == EPOCHS
    for workdir in runs:
        again, history_again = fit(workdir)
        chex.assert_trees_all_equal(again, state)
        assert without_clocks(history_again) == without_clocks(history)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert lines == history_again
        assert _evaluation(workdir) == _evaluation(tmp_path / "unbroken")
        assert len(list((workdir / "checkpoints").glob("*/*"))) == 3  # Two of `last`, one `best`, and nothing else.
