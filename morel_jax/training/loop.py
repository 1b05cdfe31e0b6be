"""A whole run: epochs of training, validation, checkpoints, metrics, and its resumption."""
import contextlib
import dataclasses
import functools
import time

import jax
import numpy as np

from morel_jax import builders, sharding
from morel_jax.data.extra import epoch_order
from morel_jax.files import local_path
from morel_jax.metrics import accuracies, compile_correct
from morel_jax.training.assemble import build_hparams, build_layout, build_parts
from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.feed import build_feed
from morel_jax.training.interruption import Interrupted, InterruptionRequest
from morel_jax.training.lock import hold
from morel_jax.training.members import shared_config
from morel_jax.training.own import NO_OWN, Own, check_model
from morel_jax.training.progress import Progress
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch, compile_train_epoch, empty_totals, keep_last
from morel_jax.training.workdir import MetricsWriter, open_workdir

# Purposes of randomness, folded into the seed's key.
INITIAL, ORDER, STEP, VALIDATION = range(4)
# Between two looks at the clock and at signals: short for a person who waits, long beside a dispatch.
_SECONDS_PER_DISPATCH = 1.0


class Diverged(ArithmeticError):
    """A loss or parameter stopped being finite; the last good checkpoint stands."""


def purpose_key(seed, purpose):
    """The key of one purpose: ``INITIAL``, ``ORDER``, ``STEP`` or ``VALIDATION``."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def order_of(config, epoch, own, extra):
    """:func:`~morel_jax.data.extra.epoch_order` of a run's epoch, with ``own`` and ``extra`` images."""
    return epoch_order(purpose_key(config.seed, ORDER), epoch, own, config.batch_size, extra, config.data.extra_share)


def next_size(size, seconds):
    """Steps of the next dispatch after one of ``size`` steps took ``seconds``."""
    return max(1, min(2 * size, int(size * _SECONDS_PER_DISPATCH / seconds)))


@dataclasses.dataclass
class Run:
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

    def end_epoch(self, config, judged, no_totals):
        """Adds the epoch's line to the history.

        Args:
            config: of the run.
            judged: dict of accuracies, empty where there was no validation.
            no_totals: Totals that the next epoch begins with.

        Returns:
            whether this epoch is the best so far. Reference: ties go to the later epoch.
        """
        epoch, count = len(self.history) + 1, int(self.totals.count)
        line = {"epoch": epoch, "step": int(self.state.step), "learning_rate": builders.learning_rate(config, epoch)}
        line |= {name: float(value) / count for name, value in sorted(self.totals.sums.items())}
        line |= judged
        line |= {"seconds": self.seconds, "images_per_second": count * config.batch_size / self.seconds}
        self.history = [*self.history, line]
        self.totals, self.seconds = no_totals, 0.0
        best = "robust_accuracy" in judged and judged["robust_accuracy"] >= self.best
        if best:
            self.best = judged["robust_accuracy"]
        return best


def is_validated(config, epoch):
    """Whether an epoch, counted from 1, ends with a validation."""
    return epoch % config.validation.every == 0 or epoch == config.epochs


def compile_new_state(config, parts, image_shape, key, layout=None):
    """The function key -> TrainState of a new run, compiled.

    Args:
        config: of the run; of what may be swept only whether there is an average matters.
        parts: Parts.
        image_shape: (h, w, c) of one image.
        key: one like those it will be called with.
        layout: of the run, where the state will lie; None: where the key is.
    """
    like = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=key.sharding)
    return _compiled_new_state(shared_config(config), builders.keeps_average(config), parts, image_shape, like, layout)


@keep_last
def _compiled_new_state(shared, average, parts, image_shape, key, layout):
    hparams = build_hparams(shared, epoch=1)

    def create(key):
        return create_state(parts, key, image_shape, hparams, average)

    create = jax.jit(create, out_shardings=layout.state(jax.eval_shape(create, key)) if layout else None)
    # Run once: what optimising would save is far less than the seconds that it takes.
    return create.lower(key).compile(compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache(maxsize=1)
def _programs(shared, num_classes, layout):
    """(parts, train_epoch, correct); kept, so that the next run in this process compiles nothing if it is like this.

    Args:
        shared: of :func:`~morel_jax.training.members.shared_config`.
        num_classes: of the data set.
        layout: of the run.
    """
    return _compiled(build_parts(shared, num_classes), layout)


def _compiled(parts, layout):
    return parts, compile_train_epoch(parts, layout), compile_correct(parts.model, layout)


def placed_key(seed, purpose, layout):
    """:func:`purpose_key` on every device of a layout."""
    words = jax.random.key_data(purpose_key(seed, purpose))
    return jax.random.wrap_key_data(layout.put(words, layout.replicated))


def placed_totals(totals, layout):
    """Totals as the compiled step gives them back; others would be one more program. The step takes them over."""
    return jax.tree.map(lambda total: layout.put(total, layout.replicated), totals)


def totals_of_no_step(config, parts, image_shape, state, own=NO_OWN):
    """Totals that an epoch begins with; ``state`` may be shapes."""
    n = config.batch_size
    batch = Batch(jax.ShapeDtypeStruct((n, *image_shape), np.uint8), jax.ShapeDtypeStruct((n,), np.int32),
                  jax.ShapeDtypeStruct((n,), np.int32))
    hparams = build_hparams(config, epoch=1, own=own)
    return empty_totals(state, hparams, batch, purpose_key(config.seed, STEP), parts=parts)


class _Trainer:
    """The pieces of a run, and the things done with them."""

    def __init__(self, config, layout, workdir, checkpoints, metrics, request, progress, own):
        self.config, self.layout, self.workdir, self.own = config, layout, workdir, own
        self.checkpoints, self.metrics, self.request, self.progress = checkpoints, metrics, request, progress
        dataset = builders.dataset(config) if own.dataset is None else own.dataset
        train, self.validation = builders.splits(config, dataset)
        self.images, self.train = len(train.labels), builders.with_extra(config, train, dataset.num_classes)
        if own.model is not None:
            check_model(own.model, dataset.image_shape, dataset.num_classes)
        self.parts, self.train_epoch, self.correct = (
            _programs(shared_config(config), dataset.num_classes, layout) if own.model is None and own.loss is None
            else _compiled(build_parts(config, dataset.num_classes, own), layout))
        self.feed = build_feed(self.train, config.data.placement, layout)
        self.step_key = self.key(STEP)
        self.steps_per_epoch = self.images // config.batch_size
        self.saved_at = time.monotonic()

    def key(self, purpose):
        return placed_key(self.config.seed, purpose, self.layout)

    def start(self):
        """A new run, or the one that the workdir's newest checkpoint holds."""
        shape = self.train.images.shape[1:]
        key = self.key(INITIAL)
        state = compile_new_state(self.config, self.parts, shape, key, self.layout)(key)
        self.no_totals = totals_of_no_step(self.config, self.parts, shape, state, self.own)
        restored = self.checkpoints.restore(
            self.layout.abstract(state, self.layout.state(state)),
            self.layout.abstract(self.no_totals, self.layout.replicated))
        if restored is None:
            run = Run(state, self.fresh_totals(), history=[], best=-1.0)
        else:
            state, totals, record = restored
            run = Run(state, totals, **record)
        if self.metrics:
            self.metrics.start(run.history)
        return run

    def fresh_totals(self):
        return placed_totals(self.no_totals, self.layout)

    def save(self, run, which="last", announce=None):
        """Begins to write a checkpoint."""
        self.checkpoints.save(which, run.position, run.state, run.totals, run.record(), announce)
        self.saved_at = time.monotonic()

    def stop_if_asked(self, run):
        """Saves and raises Interrupted after a signal."""
        # Every process stops when one was told to.
        signal_number = int(*sharding.agree([self.request.signal_number or 0]))
        if signal_number:
            self.save(run)
            self.checkpoints.wait()
            raise Interrupted(signal_number,
                              f"stopped and saved at step {int(run.state.step)} in {self.workdir}; "
                              "the same command goes on from there.")

    def check_finite(self, run):
        """Raises Diverged, before anything of it is saved."""
        bad = int(run.totals.first_bad_step)
        if bad >= 0:
            self.checkpoints.wait()
            kept = (f"the last good state stands in {self.workdir}/checkpoints/last" if self.checkpoints.positions()
                    else "nothing had been saved yet")
            raise Diverged(f"loss or parameters are not finite at step {bad} (epoch {len(run.history) + 1}); {kept}.")

    def train_one_epoch(self, run):
        """Brings ``run`` to the end of its epoch, from wherever in it it is."""
        epoch = len(run.history) + 1
        done = int(run.state.step) - (epoch - 1) * self.steps_per_epoch
        hparams = build_hparams(self.config, epoch, self.steps_per_epoch, self.own)
        order = order_of(self.config, epoch, self.images, len(self.train.labels) - self.images)
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
                now = time.monotonic()
                # All processes must take the same steps and save at the same ones: the slowest clock decides.
                elapsed, since_saved = sharding.agree([now - began, now - self.saved_at])
                run.seconds += elapsed
                size = next_size(size, elapsed)
                done = stop
                self.progress.steps(done, run.totals)
                if done < self.steps_per_epoch and since_saved > self.config.checkpoint.every_seconds:
                    self.save(run)

    def finish_epoch(self, run):
        """Validates where the config says so, and saves; the history grows by one line."""
        judged = {}
        if is_validated(self.config, len(run.history) + 1):
            def after_batch(images):
                self.stop_if_asked(run)
                self.progress.validation(images, len(self.validation.labels))

            judged = accuracies(self.correct, run.state.inference_variables(), builders.pgd(self.config.validation),
                                self.validation, self.key(VALIDATION), self.config.validation.batch_size, after_batch,
                                self.layout)
        best = run.end_epoch(self.config, judged, self.fresh_totals())
        if best:
            self.save(run, "best")
        self.save(run, announce=self.metrics and functools.partial(self.metrics.write, run.history))
        self.progress.end_epoch(run.history[-1], best)


def fit(config, workdir, progress=True, *, dataset=None, model=None, loss=None, attack=None):
    """Trains, or goes on with the run in ``workdir``; bitwise the same whether or not it was interrupted.

    Runs on the devices that ``config.mesh`` asks for, those of all processes; every process must call it alike. Another
    number of devices, from the start or from a resumption on, changes nothing but rounding.

    Args:
        config: ConfigDict with every field of ``morel_jax.configuration.defaults()``.
        workdir: folder of the run; made if it is not there.
        progress: on standard error, True: a bar and one line per epoch; "epochs": the lines alone; False: nothing.
        dataset, model, loss, attack: one's own, in place of what the config names; see
            :class:`~morel_jax.training.own.Own`. A resumption must be given the same.

    Returns:
        (state, history): the final TrainState, and a list of dicts, one an epoch: ``epoch``, ``step``,
        ``learning_rate``, mean losses and training accuracies, ``clean_accuracy`` and ``robust_accuracy`` on the
        validation split where it was judged, ``seconds`` and ``images_per_second``.

    Raises:
        ValueError: a config that cannot work, or not the one that the workdir's run has, or a workdir that another
            run is using.
        OSError: the workdir cannot be written, the disk is full, or no checkpoint there is whole. The last good
            checkpoint stands.
        Diverged: a loss or parameter stopped being finite.
        Interrupted: SIGINT or SIGTERM came, and the run was saved.
    """
    builders.check(config, own_model=model)
    workdir = local_path(workdir, "workdir")
    own = Own(dataset, model, loss, attack)
    builders.check_images(config, own.dataset)
    layout = build_layout(config)
    first = sharding.is_first_process()
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(hold(workdir))
        open_workdir(config, workdir, write=first, own=own.record())
        request = stack.enter_context(InterruptionRequest())  # Watches until the checkpoints are written.
        metrics = stack.enter_context(MetricsWriter(workdir)) if first else None  # Closed after them, too.
        checkpoints = stack.enter_context(Checkpoints(workdir))
        bar = stack.enter_context(Progress(config, progress and first))
        trainer = _Trainer(config, layout, workdir, checkpoints, metrics, request, bar, own)
        bar.steps_per_epoch = trainer.steps_per_epoch
        run = trainer.start()
        while len(run.history) < config.epochs:
            trainer.train_one_epoch(run)
            trainer.finish_epoch(run)
        checkpoints.wait()
        sharding.agree([0])  # The first process has put in place what all may now read.
    return run.state, run.history
