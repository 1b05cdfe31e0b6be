"""Runs from epoch to epoch: training, validation, checkpoints, metrics, and their resumption."""
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from morel_jax import sharding
from morel_jax.files import write_atomically
from morel_jax.optimizer import learning_rate
from morel_jax.progress import TrainingProgress
from morel_jax.training.beginning import Beginning
from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.epoch import Piece, Totals
from morel_jax.training.interruption import Interrupted, InterruptionRequest
from morel_jax.training.members import Member
from morel_jax.training.placement import Placement
from morel_jax.training.profile import Profile
from morel_jax.training.setup import INITIAL, STEP, VALIDATION, Setup
from morel_jax.training.state import HParams, TrainState
from morel_jax.training.step import Parts, keep_last
from morel_jax.training.validation import Correct
from morel_jax.training.workdir import MetricsWriter, load_divergence

# Between two looks at the clock and at signals: short for a person who waits, long beside a dispatch.
_SECONDS_PER_DISPATCH = 1.0


class Diverged(ArithmeticError):
    """A loss or parameter stopped being finite; the last good checkpoint stands."""


def next_size(size: int, seconds: float) -> int:
    """Steps of the next dispatch after one of ``size`` steps took ``seconds``."""
    return max(1, min(2 * size, int(size * _SECONDS_PER_DISPATCH / seconds)))


def is_validated(config: ConfigDict, epoch: int) -> bool:
    """Whether an epoch, counted from 1, ends with a validation."""
    return epoch % config.validation.every == 0 or epoch == config.epochs


@dataclasses.dataclass
class Run:
    """What changes during a run.

    Attributes:
        config: its own.
        state, totals: its own, and of the epoch under way, as of the last fetch from the devices.
        history: one dict per finished epoch.
        best: highest robust accuracy in it; -1 where there is none.
        seconds: training time of the epoch under way.
        step: updates made.
    """
    config: ConfigDict
    state: TrainState
    totals: Totals
    history: list[dict[str, Any]]
    best: float = -1.0
    seconds: float = 0.0
    step: int = 0

    @property
    def position(self) -> int:
        """Steps done plus validations done: a checkpoint's number."""
        return self.step + len(self.history)

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps beside arrays."""
        return {"history": self.history, "best": self.best, "seconds": self.seconds}

    def end_epoch(self, judged: Mapping[str, float], no_totals: Totals) -> bool:
        """Adds the epoch's line to the history.

        Args:
            judged: accuracies; empty where there was no validation.
            no_totals: what the next epoch begins with.

        Returns:
            Whether this epoch is the best so far. Reference: ties go to the later epoch.
        """
        epoch, count = len(self.history) + 1, int(self.totals.count)
        line = {"epoch": epoch, "step": self.step, "learning_rate": learning_rate(self.config, epoch)}
        line |= {name: float(value) / count for name, value in sorted(self.totals.sums.items())}
        line |= judged
        line |= {"seconds": self.seconds, "images_per_second": count * self.config.batch_size / self.seconds}
        self.history = [*self.history, line]
        self.totals, self.seconds = no_totals, 0.0
        best = "robust_accuracy" in judged and judged["robust_accuracy"] >= self.best
        if best:
            self.best = judged["robust_accuracy"]
        return best


@keep_last
def programs(placement: Placement, parts: Parts) -> tuple[jax.stages.Wrapped, Correct]:
    """(train, correct) of a placement; kept, so that the next like runs in this process compile nothing."""
    return placement.compile(parts)


class Trainer:
    """Trains one run, or the members of a sweep, which are at one position all the time.

    Args:
        setup: what they share.
        members: what tells them apart.
        placement: ``Sharded`` of one member, or ``Stacked``.
        workdir: of the run or sweep.
        folders: the members' own.
        request: watches for signals.
        progress: shows how far they are.
        profile: of their steps.
        stack: closes what is opened here: the checkpoints are on disk before the metrics are closed.
        beginning: what new runs begin with, or None.
    """

    def __init__(self, setup: Setup, members: Sequence[Member], placement: Placement, workdir: Path,
                 folders: list[Path], request: InterruptionRequest, progress: TrainingProgress, profile: Profile,
                 stack: contextlib.ExitStack, beginning: Beginning | None = None) -> None:
        self.setup, self.members, self.placement = setup, members, placement
        self.workdir, self.folders = workdir, folders
        self.request, self.progress, self.profile = request, progress, profile
        self.is_sweep = folders != [workdir]
        self.metrics = [
            stack.enter_context(MetricsWriter(folder, member.config)) if sharding.is_first_process() else None
            for folder, member in zip(folders, members, strict=True)]
        self.checkpoints = [stack.enter_context(Checkpoints(folder)) for folder in folders]
        self.diverged = [load_divergence(folder) if self.is_sweep else None for folder in folders]
        self.train, self.correct = programs(placement, setup.parts)
        self.feed = placement.feed(setup.train, setup.config.data.placement)
        self.steps_per_epoch = progress.steps_per_epoch = setup.steps_per_epoch
        seeds = [member.config.seed for member in members]
        self.step_keys, self.validation_keys = (placement.keys(seeds, purpose) for purpose in (STEP, VALIDATION))
        self.no_totals = setup.no_totals(placement.layout)
        states = placement.new_states(setup, seeds, INITIAL)
        if beginning is not None and not all(self.checkpoints[number].positions() for number in self.living):
            begun = [beginning.apply(state, setup.config, setup.custom.model) for state in states]
            states = [state for state, _ in begun]
            progress.say(begun[0][1])  # What is taken and what is fresh is the same for all.
        self.runs = self._start(states)
        for run, writer in zip(self.runs, self.metrics, strict=True):
            if writer and run.history:
                writer.write(run.history)
        self.states = placement.states([run.state for run in self.runs])
        self.totals = placement.totals([run.totals for run in self.runs])
        self.saved_at = time.monotonic()
        self.compiled = False

    @property
    def living(self) -> list[int]:
        """Numbers of the members that have not diverged."""
        return [number for number, diverged in enumerate(self.diverged) if diverged is None]

    @property
    def epoch(self) -> int:
        """The epoch under way."""
        return len(self.runs[self.living[0]].history) + 1

    def run(self) -> None:
        """Trains to the last epoch, or until every member has diverged."""
        while self.living and self.epoch <= self.setup.config.epochs:
            self._train_one_epoch()
            if self.living:
                self._finish_epoch()
        self._wait()
        sharding.agree([0])  # The first process has put in place what all may now read.

    def _start(self, states: Sequence[TrainState]) -> list[Run]:
        """The runs as their newest checkpoints have them, or new ones."""
        like = self.placement.like(states[0], self.no_totals)

        def restored(number: int) -> Run:
            run = Run(self.members[number].config, states[number], self.no_totals, history=[])
            found = self.checkpoints[number].restore(*like)
            if found is not None:
                state, totals, record = found
                state, totals = self.placement.on_host((state, totals))
                run = Run(run.config, state, totals, **record, step=int(state.step))
            return run

        found = self._restored_together(restored) if self.is_sweep else {}
        return [found.get(number) or restored(number) for number in range(len(states))]

    def _restored_together(self, restored: Callable[[int], Run]) -> dict[int, Run]:
        """{number: Run} of the living members at the newest position that all of them have; empty at a beginning."""
        kept = {number: self.checkpoints[number].positions() for number in self.living}
        common = set.intersection(*map(set, kept.values())) if kept else set()
        while common:
            position = max(common)
            for number in kept:
                self.checkpoints[number].delete_after(position)
            found = {number: restored(number) for number in kept}
            # An earlier one where the newest was damaged.
            reached = min(run.position for run in found.values())
            if reached == position:
                return found
            common = {earlier for earlier in common if earlier <= reached}
        # A kill in the midst of the first save leaves some members with one checkpoint and others with none.
        if kept and (all(kept.values()) or max(map(len, kept.values())) > 1):
            raise ValueError(f"the members in {self.workdir} must have a checkpoint at one and the same position; got "
                             + "; ".join(f"{self.members[number].name}: {positions}"
                                         for number, positions in kept.items()) + ".")
        for number in kept:
            self.checkpoints[number].delete_after(-1)
        return {}

    def _fetch(self) -> None:
        """Brings the living members' arrays to ``runs``."""
        states, totals = self.placement.fetch(self.states), self.placement.fetch(self.totals)
        for number in self.living:
            self.runs[number].state, self.runs[number].totals = states[number], totals[number]

    def _wait(self) -> None:
        for number in self.living:
            self.checkpoints[number].wait()

    def _write(self, which: str, numbers: Sequence[int], end_of_epoch: bool = False) -> None:
        self._wait()  # All are whole at one position before any writes the next and drops the one before.
        for number in numbers:
            run, writer = self.runs[number], self.metrics[number]
            announce = functools.partial(writer.write, run.history) if end_of_epoch and writer else None
            self.checkpoints[number].save(which, run.position, run.state, run.totals, run.record(), announce)
        self.saved_at = time.monotonic()

    def _save(self) -> None:
        """Writes ``last`` of every living member, all at one position."""
        self._fetch()
        self._write("last", self.living)

    def _stop_if_asked(self) -> None:
        """Saves and raises Interrupted after a signal."""
        # Every process stops when one was told to.
        signal_number = int(*sharding.agree([self.request.signal_number or 0]))
        if signal_number:
            self._save()
            self._wait()
            saved = f"{len(self.living)} members " if self.is_sweep else ""
            raise Interrupted(signal_number, f"stopped and saved {saved}at step {self.runs[self.living[0]].step} in "
                              f"{self.workdir}; the same command resumes from there.")

    def _note_divergence(self) -> None:
        """Ends the members that diverged, before anything of it is saved; a run alone raises Diverged."""
        bad_steps = self.placement.first_bad_steps(self.totals)
        bad = [number for number in self.living if bad_steps[number] >= 0]
        if not bad:
            return
        self._wait()  # Nothing is said to have ended before its last good state is on disk.
        epoch = self.epoch
        for number in bad:
            found = self.diverged[number] = {"epoch": epoch, "step": int(bad_steps[number])}
            if not self.is_sweep:
                kept = (f"the last good state stands in {self.workdir}/checkpoints/last"
                        if self.checkpoints[number].positions() else "nothing had been saved yet")
                raise Diverged(f"loss or parameters are not finite at step {found['step']} (epoch {epoch}); {kept}.")
            write_atomically(self.folders[number] / "diverged.json", json.dumps(found))

    def _train_one_epoch(self) -> None:
        """Brings the living members to the end of their epoch, from wherever in it they are."""
        epoch, placement = self.epoch, self.placement
        first_step = (epoch - 1) * self.steps_per_epoch
        done = self.runs[self.living[0]].step - first_step
        hparams = placement.hparams([self.setup.hparams(member.config, epoch) for member in self.members])
        order = functools.cache(functools.partial(self.setup.order, epoch=epoch))
        orders = placement.orders([order(member.config.seed) for member in self.members])
        self.progress.start_epoch(epoch, done)
        size = 1
        for piece, first, last in self.feed.pieces(orders, done):
            while done < last and self.living:
                self._stop_if_asked()
                profiled = self.profile.steps(last - done, last - first)
                stop = done + profiled if profiled else min(done + size, last)
                with self.profile.around(profiled):
                    began = time.monotonic()
                    self._dispatch(hparams, piece, np.int32(done - first),
                                   placement.stops(stop - first, done - first, self.living))
                    self._note_divergence()
                    now = time.monotonic()
                # All processes must take the same steps and save at the same ones: the slowest clock decides.
                elapsed, since_saved = sharding.agree([now - began, now - self.saved_at])
                for number in self.living:
                    self.runs[number].seconds += elapsed
                    self.runs[number].step = first_step + stop
                size = next_size(size, elapsed)
                done = stop
                if not self.living:
                    return
                self.progress.steps(done, placement.mean(self.totals, self.living))
                if done < self.steps_per_epoch and since_saved > self.setup.config.checkpoint.every_seconds:
                    self._save()

    def _dispatch(self, hparams: HParams, piece: Piece, start: ArrayLike, stop: ArrayLike) -> None:
        """Takes the steps ``start`` to ``stop`` of a piece."""
        arguments = self.states, self.totals, hparams, piece, self.step_keys, start, stop
        if not self.compiled:
            began = time.monotonic()
            self.train.lower(*arguments).compile()  # The call below finds it done.
            self.compiled = True
            self.progress.compiled(time.monotonic() - began)
        self.states, self.totals = self.train(*arguments)

    def _finish_epoch(self) -> None:
        """Validates where the config says so, and saves; each living member's history grows by one line."""
        judged: list[dict] = [{} for _ in self.members]
        if is_validated(self.setup.config, self.epoch):
            def after_batch(images: int) -> None:
                self._stop_if_asked()
                self.progress.validation(images, len(self.setup.validation.labels))

            judged = self.placement.accuracies(self.correct, self.states, self.setup, self.validation_keys, after_batch)
        self._fetch()
        self.totals = self.placement.totals([self.no_totals] * len(self.members))
        no_totals = self.placement.fetch(self.totals)
        best = [number for number in self.living if self.runs[number].end_epoch(judged[number], no_totals[number])]
        self._write("best", best)
        self._write("last", self.living, end_of_epoch=True)
        lines = [self.runs[number].history[-1] for number in self.living]
        if self.is_sweep:
            mean = {name: np.mean([line[name] for line in lines]) for name in lines[0]}
            mean |= {"epoch": lines[0]["epoch"], "images_per_second": sum(line["images_per_second"] for line in lines)}
            self.progress.end_epoch(mean, best=False)
        else:
            self.progress.end_epoch(lines[0], best=bool(best))
