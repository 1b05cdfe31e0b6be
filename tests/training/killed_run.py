"""A training and its evaluation, for another process to kill at any moment."""
import sys
from unittest import mock

import jax

from morel_jax import builders, evaluation, training
from morel_jax.progress import AttackProgress, TrainingProgress
from morel_jax.training import trainer
from tests.small import small_config, small_dataset

PHASES = ("start", "training", "end of an epoch", "evaluation")
EPOCHS = 2
ATTACKS, JUDGED = ("pgd20", "apgd-ce", "square"), 20
# Read once, in the process from which the others are forked.
_DATASET = small_dataset()


def fit(workdir):
    """Epochs of 24 MOREL steps, a checkpoint every few of them, and validation after each epoch."""
    config = small_config(epochs=EPOCHS, batch_size=4, attack__num_steps=10, validation__num_steps=20, ema_decay=0.99,
                          checkpoint__every_seconds=0.05)
    with mock.patch.object(builders, "dataset", return_value=_DATASET), \
            mock.patch.object(trainer, "_SECONDS_PER_DISPATCH", 0.02):
        return training.fit(config, workdir, progress=False)


def run(workdir, compiled, phase):
    """Trains, judges ``best``, and says in ``phase.value`` which of PHASES it is in.

    Args:
        workdir: path.
        compiled: folder of compiled programs.
        phase: shared integer.
    """
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

    def say(name):
        phase.value = PHASES.index(name)

    class Told(TrainingProgress):
        def steps(self, done, totals):
            say("training")
            super().steps(done, totals)

        def validation(self, images, total):
            say("end of an epoch")
            super().validation(images, total)

    class ToldOfAttacks(AttackProgress):
        def advance(self, *arguments):
            say("evaluation")

    with mock.patch.object(sys.modules["morel_jax.training.fit"], "TrainingProgress", Told):
        fit(workdir)
    with mock.patch.object(builders, "dataset", return_value=_DATASET):
        logits_fn, _ = evaluation.load(workdir, "best")
    test = _DATASET.test
    say("start")
    evaluation.evaluate(logits_fn, test.images[:JUDGED], test.labels[:JUDGED], ATTACKS, workdir / "evaluation",
                        epsilon=0.02, batch_size=8, save_images=True, progress=ToldOfAttacks(shown=False))
