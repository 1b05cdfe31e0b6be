"""Trained networks, read back from a run's folder."""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from morel_jax import builders
from morel_jax.files import local_path
from morel_jax.models.outputs import in_float32
from morel_jax.training.checkpoint import load_classifier
from morel_jax.training.custom import CustomParts
from morel_jax.training.workdir import load_config, load_custom


def load_variables(workdir, which="best", model=None):
    """The plain classifier that a run saved.

    Args:
        workdir: the run's folder.
        which: ``best`` (highest robust accuracy in validation) or ``last``.
        model: the run's own Flax module, where it was given one.

    Returns:
        (model, variables, config, dataset): Flax module, its ``params`` and ``batch_stats``, the run's ConfigDict, and
        the data.Dataset that it names, or None where the run was given one of the caller's.

    Raises:
        FileNotFoundError: not a run's folder, or no such checkpoint in it.
        ValueError: an unknown ``which``, or not the model that was trained.
    """
    workdir = local_path(workdir, "workdir")
    config, own = load_config(workdir), load_custom(workdir)
    given = CustomParts(model=model).record()
    if given.get("model") != own.get("model"):
        raise ValueError(f"model must be the one that the run in {workdir} was given, {own.get('model', 'none')}; "
                         f"got {given.get('model', 'none')}.")
    dataset = None
    if "dataset" in own:
        image_shape, num_classes = own["dataset"]["image_shape"], own["dataset"]["num_classes"]
    else:
        dataset = builders.dataset(config)
        image_shape, num_classes = dataset.image_shape, dataset.num_classes
    if model is None:
        model = builders.model(config, num_classes)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    # A model without BatchNorm is saved with no statistics.
    shapes = {"batch_stats": {}} | jax.eval_shape(model.init, jax.random.key(0), image)
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
    return jax.tree_util.Partial(_Logits(in_float32(model)), variables)


def load(workdir, which="best", model=None):
    """A trained network as a function.

    Args:
        workdir: the run's folder.
        which: ``best`` (highest robust accuracy in validation) or ``last``.
        model: the run's own Flax module, where it was given one.

    Returns:
        (logits_fn, config): images float32[n, h, w, c] in [0, 1] -> logits float32[n, classes], computed in float32
        with running BatchNorm statistics (see :func:`as_logits_fn`); and the run's ConfigDict.

    Raises:
        FileNotFoundError: not a run's folder, or no such checkpoint in it.
        ValueError: an unknown ``which``, or not the model that was trained.
    """
    model, variables, config, _ = load_variables(workdir, which, model)
    return as_logits_fn(model, variables), config
