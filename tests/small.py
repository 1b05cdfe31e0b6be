"""A run small enough for a test: real images, few of them, and a network of a few thousand weights."""
import functools
import os
import signal
from importlib import metadata

import numpy as np
import pytest

from morel_jax import data
from morel_jax.configuration import recipe
from morel_jax.progress import TrainingProgress

# Of XLA_FLAGS, for programs that run for less time than their compilation takes.
COMPILE_QUICKLY = "--xla_backend_optimization_level=0"
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # Later ones know no other emitters.
    COMPILE_QUICKLY += " --xla_cpu_use_fusion_emitters=false"  # A quarter of the time for a step of training.


def as_users_compile():
    """The environment of a process whose programs run longer than they compile."""
    return os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "").replace(COMPILE_QUICKLY, "").strip()}


def small_dataset(train=96, test=40):
    """The first images of the embedded Fashion-MNIST, as a Dataset of its own."""
    whole = data.load("fashion_mnist_small")
    return data.Dataset(name="small", train=data.Split(whole.train.images[:train], whole.train.labels[:train]),
                        test=data.Split(whole.test.images[:test], whole.test.labels[:test]),
                        num_classes=whole.num_classes, class_names=whole.class_names)


def small_config(method="morel_mart", variant="paper", **changes):
    """Two epochs of six steps; ``changes`` are fields by dotted name, dots written as two underscores."""
    config = recipe(f"convnet_small,{method},{variant}")
    config.data.name = "fashion_mnist_small"
    config.epochs = 2
    config.batch_size = 16
    config.attack.num_steps = 2
    config.validation.update(dict(num_steps=2, batch_size=16, epsilon=0.1, step_size=0.05))
    config.optimizer.learning_rate = 0.01
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        setattr(config[section] if section else config, field, value)
    return config


# An even smaller run: two epochs of six batches, for a network that runs with little optimisation.
tiny_config = functools.partial(small_config, batch_size=8, validation__batch_size=8)
tiny_dataset = functools.partial(small_dataset, train=48, test=20)


def without_clocks(history):
    """A run's history without its times."""
    return [{name: value for name, value in line.items() if name not in ("seconds", "images_per_second")}
            for line in history]


def interrupt_after(monkeypatch, calls, method="steps", number=signal.SIGTERM):
    """Sends this process a signal at the given call of a method of the progress."""
    original, seen = getattr(TrainingProgress, method), []

    def interrupting(self, *arguments):
        original(self, *arguments)
        seen.append(arguments)
        if len(seen) == calls:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingProgress, method, interrupting)


def images_and_labels(count=8, size=8, channels=3, classes=4, seed=0):
    """Random images uint8[count, size, size, channels] and labels int32[count]."""
    random = np.random.default_rng(seed)
    return (random.integers(0, 256, (count, size, size, channels), np.uint8),
            random.integers(0, classes, count).astype(np.int32))


def newest_checkpoint(workdir):
    """Position of the newest ``last`` of a run, or None."""
    positions = [int(path.name) for path in (workdir / "checkpoints" / "last").glob("*") if path.name.isdecimal()]
    return max(positions, default=None)


def mostly_slow(names, *fast):
    """Parameters for pytest, tuples where there are several names: those that are not in ``fast`` are marked slow."""
    return [pytest.param(*(name if isinstance(name, tuple) else (name,)),
                         marks=() if name in fast else pytest.mark.slow) for name in names]
