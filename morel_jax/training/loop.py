"""A whole run: epochs of training, validation, checkpoints, metrics, and its resumption."""
import dataclasses
import time

import jax
import numpy as np

from morel_jax import builders
from morel_jax.metrics import accuracies, compile_correct
from morel_jax.training.assemble import build_hparams, build_parts
from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.feed import build_feed, epoch_order
from morel_jax.training.interruption import Interrupted, InterruptionRequest
from morel_jax.training.progress import Progress
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch, compile_train_epoch, empty_totals
from morel_jax.training.workdir import MetricsWriter, open_workdir

# Purposes of randomness, folded into the seed's key.
_INITIAL, _ORDER, _STEP, _VALIDATION = range(4)
# Between two looks at the clock and at signals: short for a person who waits, long beside a dispatch.
_SECONDS_PER_DISPATCH = 1.0


class Diverged(ArithmeticError):
    """A loss or parameter stopped being finite; the last good checkpoint stands."""


def _purpose(seed, purpose):
    return jax.random.fold_in(jax.random.key(seed), purpose)


@dataclasses.dataclass
class _Run:
    """What changes while a run goes on."""
    state: object
    totals: object
    history: list
    best: float
    seconds: float = 0.0  # Training time of the epoch under way.

    @property
    def position(self):
        """Steps done plus validations done: a checkpoint's number."""
        return int(self.state.step) + len(self.history)

    def record(self):
        """What a checkpoint keeps beside arrays."""
        return {"history": self.history, "best": self.best, "seconds": self.seconds}


class _Trainer:
    """The pieces of a run, and the things done with them."""

    def __init__(self, config, workdir, checkpoints, request, progress):
        self.config, self.workdir = config, workdir
        self.checkpoints, self.request, self.progress = checkpoints, request, progress
        dataset = builders.dataset(config)
        self.train, self.validation = builders.splits(config, dataset)
        self.parts = build_parts(config, dataset.num_classes)
        self.feed = build_feed(self.train, config.data.placement)
        self.train_epoch = compile_train_epoch(self.parts)
        self.correct = compile_correct(self.parts.model)
        self.step_key = _purpose(config.seed, _STEP)
        self.steps_per_epoch = len(self.train.labels) // config.batch_size
        self.saved_at = time.monotonic()

    def start(self):
        """A new run, or the one that the workdir's newest checkpoint holds."""
        shape = self.train.images.shape[1:]
        hparams = build_hparams(self.config, epoch=1)
        create = jax.jit(lambda key: create_state(self.parts, key, shape, hparams, self.config.ema_decay > 0))
        key = _purpose(self.config.seed, _INITIAL)
        # Run once: what optimising would save is far less than the seconds that it takes.
        state = create.lower(key).compile(compiler_options={"xla_backend_optimization_level": 0})(key)
        n = self.config.batch_size
        batch = Batch(jax.ShapeDtypeStruct((n, *shape), np.uint8), jax.ShapeDtypeStruct((n,), np.int32),
                      jax.ShapeDtypeStruct((n,), np.int32))
        self.no_totals = empty_totals(state, hparams, batch, self.step_key, parts=self.parts)
        restored = self.checkpoints.restore(state, self.no_totals)
        if restored is None:
            return _Run(state, self.no_totals, history=[], best=-1.0)
        state, totals, record = restored
        return _Run(state, totals, **record)

    def save(self, run, which="last"):
        """Writes a checkpoint."""
        self.checkpoints.save(which, run.position, run.state, run.totals, run.record())
        self.saved_at = time.monotonic()

    def stop_if_asked(self, run):
        """Saves and raises Interrupted after a signal."""
        if self.request.signal_number is not None:
            self.save(run)
            raise Interrupted(self.request.signal_number,
                              f"stopped and saved at step {int(run.state.step)} in {self.workdir}; "
                              "the same command goes on from there.")

    def check_finite(self, run):
        """Raises Diverged, before anything of it is saved."""
        bad = int(run.totals.first_bad_step)
        if bad >= 0:
            raise Diverged(f"loss or parameters are not finite at step {bad} (epoch {len(run.history) + 1}); "
                           f"the last good state stands in {self.workdir}/checkpoints/last.")

    def train_one_epoch(self, run):
        """Brings ``run`` to the end of its epoch, from wherever in it it is."""
        epoch = len(run.history) + 1
        done = int(run.state.step) - (epoch - 1) * self.steps_per_epoch
        hparams = build_hparams(self.config, epoch)
        order = epoch_order(_purpose(self.config.seed, _ORDER), epoch, len(self.train.labels), self.config.batch_size)
        self.progress.start_epoch(epoch, done)
        size = 1
        for piece in self.feed.pieces(order, done):
            while done < piece.stop:
                self.stop_if_asked(run)
                stop = min(done + size, piece.stop)
                began = time.monotonic()
                run.state, run.totals = self.train_epoch(
                    run.state, run.totals, hparams, piece.images, piece.labels, piece.rows, piece.index,
                    self.step_key, np.int32(done - piece.first), np.int32(stop - piece.first))
                self.check_finite(run)
                elapsed = time.monotonic() - began
                run.seconds += elapsed
                size = max(1, min(2 * size, int(size * _SECONDS_PER_DISPATCH / elapsed)))
                done = stop
                self.progress.steps(done, run.totals)
                if (done < self.steps_per_epoch
                        and time.monotonic() - self.saved_at > self.config.checkpoint.every_seconds):
                    self.save(run)

    def finish_epoch(self, run):
        """Validates where the config says so, and saves; the history grows by one line."""
        epoch = len(run.history) + 1
        count = int(run.totals.count)
        line = {"epoch": epoch, "step": int(run.state.step),
                "learning_rate": builders.learning_rate(self.config, epoch)}
        line |= {name: float(value) / count for name, value in sorted(run.totals.sums.items())}
        best = False
        if epoch % self.config.validation.every == 0 or epoch == self.config.epochs:
            def after_batch(images):
                self.stop_if_asked(run)
                self.progress.validation(images, len(self.validation.labels))

            line |= accuracies(self.correct, run.state.inference_variables(), builders.pgd(self.config.validation),
                               self.validation, _purpose(self.config.seed, _VALIDATION),
                               self.config.validation.batch_size, after_batch)
            best = line["robust_accuracy"] >= run.best  # Reference: ties go to the later epoch.
        line |= {"seconds": run.seconds, "images_per_second": count * self.config.batch_size / run.seconds}
        run.history = [*run.history, line]
        run.totals, run.seconds = self.no_totals, 0.0
        if best:
            run.best = line["robust_accuracy"]
            self.save(run, "best")
        self.save(run)
        self.progress.end_epoch(line, best)


def fit(config, workdir, progress=True):
    """Trains, or goes on with the run in ``workdir``; bitwise the same whether or not it was interrupted.

    Args:
        config: ConfigDict with every field of ``morel_jax.configuration.defaults()``.
        workdir: folder of the run; made if it is not there.
        progress: show a progress bar and a line an epoch on standard error.

    Returns:
        (state, history): the final TrainState, and a list of dicts, one an epoch: ``epoch``, ``step``,
        ``learning_rate``, mean losses and training accuracies, ``clean_accuracy`` and ``robust_accuracy`` on the
        validation split where it was judged, ``seconds`` and ``images_per_second``.

    Raises:
        ValueError: a config that cannot work, or not the one that the workdir's run has.
        Diverged: a loss or parameter stopped being finite.
        Interrupted: SIGINT or SIGTERM came, and the run was saved.
    """
    builders.check(config)
    workdir = open_workdir(config, workdir)
    with Checkpoints(workdir) as checkpoints, InterruptionRequest() as request, Progress(config, progress) as bar:
        trainer = _Trainer(config, workdir, checkpoints, request, bar)
        bar.steps_per_epoch = trainer.steps_per_epoch
        run = trainer.start()
        writer = MetricsWriter(workdir, run.history)
        while len(run.history) < config.epochs:
            trainer.train_one_epoch(run)
            trainer.finish_epoch(run)
            writer.write(run.history)
        writer.close()
    return run.state, run.history
