"""Custom parts of a run: objects handed to `fit` in place of what the config names."""
import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from morel_jax.attacks.pytree import as_pytree
from morel_jax.data import Dataset
from morel_jax.models import Outputs


@dataclasses.dataclass(frozen=True)
class CustomParts:
    """Parts that a run takes from its caller; None leaves what the config names.

    Attributes:
        dataset: data.Dataset.
        model: Flax module; see :func:`check_model`.
        loss: (views, labels, hparams) -> float[n], in place of the method's classification loss; see
            :class:`~morel_jax.methods.Views` and :class:`~morel_jax.training.state.HParams`.
        attack: called as ``attack(logits_fn, keys, x, y)`` -> ``x_adv``, one key per example; a pytree, whose leaves
            are traced. In place of ``config.attack`` in training; validation keeps ``config.validation``.
    """
    dataset: Dataset | None = None
    model: nn.Module | None = None
    loss: Callable | None = None
    attack: Any = None

    def __post_init__(self):
        if not isinstance(self.dataset, Dataset | None):
            raise ValueError(f"dataset must be a morel_jax.data.Dataset; got {type(self.dataset).__name__}.")
        for name in ("loss", "attack"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ValueError(f"{name} must be a function, or an object that is called like one; got "
                                 f"{getattr(self, name)!r}.")
        object.__setattr__(self, "attack", as_pytree(self.attack))

    def record(self):
        """What a workdir keeps of them: a dict for JSON, by which a resumption with others is noticed."""
        kept = {name: _printed(value) for name in ("model", "loss", "attack")
                if (value := getattr(self, name)) is not None}
        if self.dataset is not None:
            kept["dataset"] = {"name": self.dataset.name, "image_shape": list(self.dataset.image_shape),
                               "num_classes": self.dataset.num_classes, "sha256": _digest(self.dataset)}
        return kept


# A run without any.
NO_CUSTOM = CustomParts()


def _printed(value):
    """What Python prints of an object, without addresses; a function's name for a function."""
    if isinstance(value, functools.partial):  # Partial, too: its function has a name.
        value = (value.func, *value.args, value.keywords) if value.args or value.keywords else value.func
    text = getattr(value, "__qualname__", None) or repr(value)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _digest(dataset):
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        for array in (split.images, split.labels):
            digest.update(array.data if array.flags.c_contiguous else array.tobytes())
    return digest.hexdigest()


def _check_outputs(outputs, num_classes):
    if not isinstance(outputs, Outputs):
        raise ValueError(f"model must return morel_jax.models.Outputs(features, logits); got {type(outputs).__name__}.")
    if outputs.logits.shape != (2, num_classes) or outputs.features.ndim != 2:
        raise ValueError(f"model must give features [n, width] and logits [n, {num_classes}]; got "
                         f"{outputs.features.shape} and {outputs.logits.shape} for two images.")
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in outputs):
        raise ValueError(f"model must give floating features and logits; got {outputs.features.dtype} and "
                         f"{outputs.logits.dtype}.")


def check_model(model, image_shape, num_classes):
    """Raises ValueError unless a step can train ``model``.

    It must map float32[n, h, w, c] and ``train=`` to :class:`~morel_jax.models.Outputs`, features [n, width] and logits
    [n, classes]. Statistics under ``batch_stats`` need an attribute ``batch_norm_momentum``, the weight of the old ones
    in its BatchNorm layers, for the step sets it to 0 and moves them itself. It is traced with and without
    ``train``; errors of its own come through.

    Args:
        model: Flax module.
        image_shape: (h, w, c).
        num_classes: logits that it must have.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be an instance of a Flax linen module; got {model!r:.200}.")
    parameters = inspect.signature(type(model).__call__).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not any_name and ("train" not in parameters or parameters["train"].default):
        raise ValueError("model must be called as model(images, train=False), False the default; "
                         f"{type(model).__name__} takes {', '.join(map(str, list(parameters.values())[1:]))}.")
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    try:
        outputs = jax.eval_shape(model.apply, variables, images)
        in_training, _ = jax.eval_shape(functools.partial(model.apply, train=True, mutable=["batch_stats"]), variables,
                                        images)
    except flax.errors.InvalidRngError:
        raise ValueError("model must not draw random numbers, as a dropout layer does: a step has no key for them; "
                         f"{type(model).__name__} draws some.") from None
    for each in (outputs, in_training):
        _check_outputs(each, num_classes)
    if "params" not in variables:
        raise ValueError(f"model must have parameters to train; {type(model).__name__} has none.")
    others = set(variables) - {"params", "batch_stats"}
    if others:
        raise ValueError("model must keep its variables in params and batch_stats; got "
                         f"{', '.join(sorted(others))} too.")
    if "batch_stats" in variables and not hasattr(model, "batch_norm_momentum"):
        raise ValueError("model must have an attribute batch_norm_momentum that its BatchNorm layers take, as it has "
                         f"batch_stats; {type(model).__name__} has none.")
