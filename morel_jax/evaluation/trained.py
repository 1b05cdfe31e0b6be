"""Trained networks, read back from a run's folder."""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from morel_jax import builders
from morel_jax.training.checkpoint import load_classifier
from morel_jax.training.workdir import load_config


def load_variables(workdir, which="best"):
    """The plain classifier that a run saved.

    Args:
        workdir: the run's folder.
        which: ``best`` (highest robust accuracy in validation) or ``last``.

    Returns:
        (model, variables, config, dataset): Flax module, its ``params`` and ``batch_stats``, the run's ConfigDict, and
        the data.Dataset that it names.

    Raises:
        FileNotFoundError: not a run's folder, or no such checkpoint in it.
        ValueError: an unknown ``which``.
    """
    config = load_config(workdir)
    dataset = builders.dataset(config)
    model = builders.model(config, dataset.num_classes)
    image = jax.ShapeDtypeStruct((1, *dataset.train.images.shape[1:]), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return model, load_classifier(workdir, which, shapes), config, dataset


@dataclasses.dataclass(frozen=True)
class _Logits:
    """Equal for equal models, so that networks of one architecture share compiled programs."""
    model: Any

    def __call__(self, variables, images):
        return self.model.apply(variables, images).logits


def as_logits_fn(model, variables):
    """A classifier as a function of images alone, in float32 and with running BatchNorm statistics.

    Args:
        model: Flax classifier.
        variables: its ``params`` and ``batch_stats``.

    Returns:
        ``jax.tree_util.Partial``, images float32[n, h, w, c] in [0, 1] -> logits float32[n, classes]: a function that
        is also a pytree, whose leaves are the variables.
    """
    return jax.tree_util.Partial(_Logits(model.clone(dtype="float32")), variables)


def load(workdir, which="best"):
    """A trained network as a function.

    Args:
        workdir: the run's folder.
        which: ``best`` (highest robust accuracy in validation) or ``last``.

    Returns:
        (logits_fn, config): images float32[n, h, w, c] in [0, 1] -> logits float32[n, classes], computed in float32
        with running BatchNorm statistics (see :func:`as_logits_fn`); and the run's ConfigDict.

    Raises:
        FileNotFoundError: not a run's folder, or no such checkpoint in it.
        ValueError: an unknown ``which``.
    """
    model, variables, config, _ = load_variables(workdir, which)
    return as_logits_fn(model, variables), config
