"""A population: many settings and seeds trained by one compiled program, each to a run's folder of its own."""
import contextlib
import dataclasses
import functools
import json
import time
from typing import Any

import jax
import numpy as np

from morel_jax import builders
from morel_jax.files import write_atomically
from morel_jax.metrics import accuracies
from morel_jax.training import loop
from morel_jax.training.assemble import build_hparams, build_parts, check_compiled
from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.interruption import Interrupted, InterruptionRequest
from morel_jax.training.lock import hold
from morel_jax.training.members import Member, build_members, shared_config
from morel_jax.training.progress import Progress
from morel_jax.training.stacked import (
    MODES,
    Stacking,
    compile_correct_members,
    compile_train_members,
    default_mode,
)
from morel_jax.training.workdir import MetricsWriter, load_divergence, open_sweep, open_workdir


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a member's run ended.

    Attributes:
        member: Member.
        state: final TrainState of numpy arrays; None of a member that diverged, whose last good one is in its folder.
        history: as :func:`~morel_jax.training.fit` returns it.
        diverged: None, or {"epoch", "step"} at which loss or parameters were not finite.
    """
    member: Member
    state: Any
    history: list
    diverged: dict | None


@functools.lru_cache(maxsize=1)
def _programs(shared, num_classes, mesh, mode):
    """(parts, train, correct); kept, so that the next sweep of such members compiles nothing."""
    parts = build_parts(shared, num_classes)
    return parts, compile_train_members(parts, mesh, mode), compile_correct_members(parts.model, mesh, mode)


class _Population:
    """The members' runs: arrays stacked on the devices, the rest, and what is saved, in ``runs`` on the host."""

    def __init__(self, members, mode, workdir, checkpoints, metrics, request, progress):
        self.members, self.workdir, self.checkpoints = members, workdir, checkpoints
        self.metrics, self.request, self.progress = metrics, request, progress
        self.config = members[0].config  # For what all share.
        dataset = builders.dataset(self.config)
        own, self.validation = builders.splits(self.config, dataset)
        self.own, train = len(own.labels), builders.with_extra(self.config, own, dataset.num_classes)
        self.stacking = Stacking.over_local_devices(len(members))
        self.parts, self.train, self.correct = _programs(shared_config(self.config), dataset.num_classes,
                                                         self.stacking.mesh, mode)
        self.images, self.labels = map(self.stacking.everywhere, (train.images, train.labels))
        self.step_keys, self.validation_keys = (
            self.stacking.stack_keys([loop.purpose_key(member.config.seed, purpose) for member in members])
            for purpose in (loop.STEP, loop.VALIDATION))
        self.steps_per_epoch = self.own // self.config.batch_size
        self.diverged = [load_divergence(workdir / member.name) for member in members]
        self.runs = self._start()
        for run, writer in zip(self.runs, metrics, strict=True):
            writer.start(run.history)
        self.states, self.totals = (self.stacking.stack([getattr(run, name) for run in self.runs])
                                    for name in ("state", "totals"))
        self.saved_at = time.monotonic()

    @property
    def living(self):
        """Numbers of the members that have not diverged."""
        return [number for number, diverged in enumerate(self.diverged) if diverged is None]

    @property
    def epoch(self):
        """The epoch under way of those."""
        return len(self.runs[self.living[0]].history) + 1

    def _start(self):
        shape = self.images.shape[1:]
        keys = [loop.purpose_key(member.config.seed, loop.INITIAL) for member in self.members]
        create = loop.compile_new_state(self.config, self.parts, shape, keys[0])
        states = [jax.device_get(create(key)) for key in keys]
        self.no_totals = loop.totals_of_no_step(self.config, self.parts, shape, states[0])
        runs = [loop.Run(state, self.no_totals, history=[], best=-1.0) for state in states]
        # On the host: a device has room for its own members.
        host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host),
                            (states[0], self.no_totals))

        def restored(number):
            found = self.checkpoints[number].restore(*like)
            if found is None:
                return runs[number]
            state, totals, record = found
            return loop.Run(*jax.device_get((state, totals)), **record)

        found = self._restored_together(restored)
        return [found.get(number) or restored(number) for number in range(len(runs))]

    def _restored_together(self, restored):
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

    def _fetch(self):
        """Brings the living members' arrays to ``runs``."""
        fetched = list(zip(*map(self.stacking.unstack, (self.states, self.totals)), strict=True))
        for number in self.living:
            self.runs[number].state, self.runs[number].totals = fetched[number]

    def _wait(self):
        for number in self.living:
            self.checkpoints[number].wait()

    def _write(self, which, numbers, end_of_epoch=False):
        self._wait()  # All are whole at one position before any goes on to the next and drops the one before.
        for number in numbers:
            run = self.runs[number]
            announce = functools.partial(self.metrics[number].write, run.history) if end_of_epoch else None
            self.checkpoints[number].save(which, run.position, run.state, run.totals, run.record(), announce)

    def save(self):
        """Writes ``last`` of every living member, all at one position."""
        self._fetch()
        self._write("last", self.living)
        self.saved_at = time.monotonic()

    def stop_if_asked(self):
        """Saves and raises Interrupted after a signal."""
        if self.request.signal_number:
            self.save()
            self._wait()
            step = int(self.runs[self.living[0]].state.step)
            raise Interrupted(self.request.signal_number,
                              f"stopped and saved {len(self.living)} members at step {step} in {self.workdir}; the "
                              "same command goes on from there.")

    def _note_divergence(self):
        first_bad_step = np.asarray(self.totals.first_bad_step)
        bad = [number for number in self.living if first_bad_step[number] >= 0]
        if bad:
            self._wait()  # Nothing is said to have ended before its last good state is on disk.
        for number in bad:
            self.diverged[number] = {"epoch": self.epoch, "step": int(first_bad_step[number])}
            path = self.workdir / self.members[number].name / "diverged.json"
            write_atomically(path, json.dumps(self.diverged[number]))

    def _mean_totals(self):
        living = self.living
        return jax.tree.map(lambda leaf: np.asarray(leaf)[living].mean(), self.totals)

    def train_one_epoch(self):
        """Brings the living members to the end of their epoch, from wherever in it they are."""
        epoch = self.epoch
        done = int(self.runs[self.living[0]].state.step) - (epoch - 1) * self.steps_per_epoch
        hparams = self.stacking.stack([build_hparams(member.config, epoch, self.steps_per_epoch)
                                        for member in self.members])
        orders = {member.config.seed: loop.order_of(member.config, epoch, self.own, len(self.labels) - self.own)
                  for member in {member.config.seed: member for member in self.members}.values()}
        order = self.stacking.stack([orders[member.config.seed] for member in self.members])
        self.progress.start_epoch(epoch, done)
        size = 1
        while done < self.steps_per_epoch and self.living:
            self.stop_if_asked()
            until = min(done + size, self.steps_per_epoch)
            stop = np.full(self.stacking.slots, done, np.int32)  # Filling and diverged members take no step.
            stop[self.living] = until
            began = time.monotonic()
            self.states, self.totals = self.train(self.states, self.totals, hparams, self.images, self.labels, order,
                                                  self.step_keys, np.int32(done), stop)
            self._note_divergence()
            now = time.monotonic()
            for number in self.living:
                self.runs[number].seconds += now - began
            size = loop.next_size(size, now - began)
            done = until
            if not self.living:
                return
            self.progress.steps(done, self._mean_totals())
            if done < self.steps_per_epoch and now - self.saved_at > self.config.checkpoint.every_seconds:
                self.save()

    def finish_epoch(self):
        """Validates where the config says so, and saves; each living member's history grows by one line."""
        judged = {}
        if loop.is_validated(self.config, self.epoch):
            def after_batch(images):
                self.stop_if_asked()
                self.progress.validation(images, len(self.validation.labels))

            judged = accuracies(self.correct, self.states.inference_variables(), builders.pgd(self.config.validation),
                                self.validation, self.validation_keys, self.config.validation.batch_size, after_batch)
        self._fetch()
        best = [number for number in self.living
                if self.runs[number].end_epoch(self.members[number].config,
                                               {name: values[number] for name, values in judged.items()},
                                               self.no_totals)]
        self.totals = self.stacking.stack([self.no_totals] * len(self.members))
        self._write("best", best)
        self._write("last", self.living, end_of_epoch=True)
        self.saved_at = time.monotonic()
        lines = [self.runs[number].history[-1] for number in self.living]
        mean = {name: np.mean([line[name] for line in lines]) for name in lines[0]}
        mean |= {"epoch": lines[0]["epoch"], "images_per_second": sum(line["images_per_second"] for line in lines)}
        self.progress.end_epoch(mean, best=False)

    def outcomes(self):
        """One Outcome a member."""
        return [Outcome(member, None if diverged else run.state, run.history, diverged)
                for member, run, diverged in zip(self.members, self.runs, self.diverged, strict=True)]


def _check(config, mode):
    check_compiled()
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}.")
    if jax.process_count() > 1:
        raise ValueError(f"a population must be trained by one process; got {jax.process_count()}.")
    if config.mesh.fsdp != 1:
        raise ValueError("config.mesh.fsdp must be 1 in a population, whose members lie whole on a device; got "
                         f"{config.mesh.fsdp}.")
    if config.data.placement == "host":
        raise ValueError("config.data.placement must be device or auto in a population, whose members read one copy of "
                         "the images on each device; got 'host'.")


def fit_population(config, settings, workdir, progress=True, mode=None):
    """Trains a member for each of ``settings``, or goes on with the sweep in ``workdir``.

    One program trains all of them, cut over this process's devices (``config.mesh.data`` is not looked at); other
    values, or another number of members that gives a device as many, are the same program. Each member is the run that
    :func:`~morel_jax.training.fit` makes of its config alone on one device: bitwise on one device and ``sequential``,
    and but for rounding otherwise. A member that diverges takes no more steps, and the others go on.

    Args:
        config: base ConfigDict with every field of ``morel_jax.configuration.defaults()``.
        settings: list of {"section.field": value}; see :func:`~morel_jax.training.members.build_members`.
        workdir: folder of the sweep; each member's run is in a folder of its name there, like one that ``fit`` made.
        progress: on standard error, True: a bar and one line per epoch; "epochs": the lines alone; False: nothing.
        mode: how the members of one device are worked on, ``sequential`` or ``vmapped``; None: the first on a CPU, else
            the second.

    Returns:
        list of Outcome, in the order of ``settings``. In a member's history ``seconds`` and ``images_per_second`` are
        its own images in the time of the whole population.

    Raises:
        ValueError: a config, setting or mode that cannot work, not the ones that the workdir's sweep has, or a workdir
            that another run is using.
        Interrupted: SIGINT or SIGTERM came, and the members were saved.
    """
    members = build_members(config, settings)
    mode = mode or default_mode()
    _check(config, mode)
    builders.check_images(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hold(workdir))
        workdir = open_sweep({member.name: member.changes for member in members}, workdir)
        for member in members:  # Against a run alone in a member's folder.
            stack.enter_context(hold(workdir / member.name))
        folders = [open_workdir(member.config, workdir / member.name) for member in members]
        request = stack.enter_context(InterruptionRequest())  # Watches until the checkpoints are written.
        metrics = [stack.enter_context(MetricsWriter(folder)) for folder in folders]  # Closed after them, too.
        checkpoints = [stack.enter_context(Checkpoints(folder)) for folder in folders]
        bar = stack.enter_context(Progress(config, progress, len(members)))
        population = _Population(members, mode, workdir, checkpoints, metrics, request, bar)
        bar.steps_per_epoch = population.steps_per_epoch
        while population.living and population.epoch <= config.epochs:
            population.train_one_epoch()
            if population.living:
                population.finish_epoch()
        return population.outcomes()
