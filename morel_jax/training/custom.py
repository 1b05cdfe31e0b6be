"""Custom parts of a run: objects handed to `fit` in place of what the config names."""
import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Sequence
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from morel_jax.attacks.pytree import as_pytree
from morel_jax.data import Dataset
from morel_jax.methods.method import Loss
from morel_jax.models import Outputs, wrap
from morel_jax.models.wrapped import WrappedNetwork

# Parts of which a workdir keeps what Python prints.
_PRINTED = ("model", "loss", "attack", "validation_attack", "optimizer")


@dataclasses.dataclass(frozen=True)
class CustomParts:
    """Parts that a run takes from its caller; None leaves what the config names.

    Attributes:
        dataset: to train and to validate on.
        model: Flax module that returns :class:`~morel_jax.models.Outputs`, see :func:`check_model`; or any other
            network, with ``features``.
        features: the name of the model's head, or of the layer whose input is the feature vector; see
            :func:`morel_jax.models.wrap`. None: the model returns the features itself, or is wrapped already.
        loss: (views, labels, hparams) -> float[n], in place of the method's classification loss; see
            :class:`~morel_jax.methods.Views` and :class:`~morel_jax.training.state.HParams`.
        attack: called as ``attack(logits_fn, keys, x, y)`` -> ``x_adv``, one key per example; a pytree, whose leaves
            are traced. In place of ``config.attack`` in training.
        validation_attack: the same in place of the attack of ``config.validation``.
        optimizer: optax.GradientTransformation without learning rate, such as ``optax.scale_by_adam()``, in place of
            SGD. The step multiplies what it gives by the config's learning rate; ``config.optimizer.momentum``,
            ``nesterov`` and ``weight_decay`` are not read.
    """
    dataset: Dataset | None = None
    model: Any = None
    features: str | None = None
    loss: Loss | None = None
    attack: Any = None
    validation_attack: Any = None
    optimizer: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, Dataset | None):
            raise ValueError(f"dataset must be a morel_jax.data.Dataset; got {type(self.dataset).__name__}.")
        if self.features is not None and self.model is None:
            raise ValueError(f"features must come with a model; got {self.features!r} and none.")
        if self.features is not None or (self.model is not None and not isinstance(self.model, nn.Module)):
            object.__setattr__(self, "model", wrap(self.model, self.features))
        if not isinstance(self.optimizer, optax.GradientTransformation | None):
            raise ValueError("optimizer must be an optax.GradientTransformation, such as optax.scale_by_adam(); got "
                             f"{self.optimizer!r:.100}.")
        for name in ("loss", "attack", "validation_attack"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ValueError(f"{name} must be a function, or an object that is called like one; got "
                                 f"{getattr(self, name)!r}.")
        for name in ("attack", "validation_attack"):
            object.__setattr__(self, name, as_pytree(getattr(self, name)))

    def record(self) -> dict[str, Any]:
        """What a workdir keeps of them: a dict for JSON, by which a resumption with others is noticed."""
        given = {name: getattr(self, name) for name in _PRINTED}
        kept: dict[str, Any] = {name: _printed(value) for name, value in given.items() if value is not None}
        if self.features is not None:
            kept["features"] = self.features
        if self.dataset is not None:
            kept["dataset"] = {"name": self.dataset.name, "image_shape": list(self.dataset.image_shape),
                               "num_classes": self.dataset.num_classes, "sha256": _digest(self.dataset)}
        return kept


# A run without any.
NO_CUSTOM = CustomParts()


def _printed(value: Any) -> str:
    """What Python prints of an object, without addresses; a function's name for a function."""
    if isinstance(value, functools.partial):  # Partial, too: its function has a name.
        value = (value.func, *value.args, value.keywords) if value.args or value.keywords else value.func
    text = getattr(value, "__qualname__", None) or repr(value)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        for array in (split.images, split.labels):
            digest.update(array.data if array.flags.c_contiguous else array.tobytes())
    return digest.hexdigest()


_WRAP = " With features='<its head>' it may be any Flax module that returns logits."


def _check_outputs(outputs: Any, num_classes: int) -> None:
    if not isinstance(outputs, Outputs):
        raise ValueError("model must return morel_jax.models.Outputs(features, logits); got "
                         f"{type(outputs).__name__}.{_WRAP}")
    if outputs.logits.shape != (2, num_classes) or outputs.features.ndim != 2:
        raise ValueError(f"model must give features [n, width] and logits [n, {num_classes}]; got "
                         f"{outputs.features.shape} and {outputs.logits.shape} for two images.")
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in outputs):
        raise ValueError(f"model must give floating features and logits; got {outputs.features.dtype} and "
                         f"{outputs.logits.dtype}.")


def _check_wrapped(model: WrappedNetwork, image_shape: Sequence[int], num_classes: int) -> None:
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(model.init, key, images)
    if not jax.tree.leaves(variables["params"]):
        raise ValueError(f"model must have parameters to train; {model!r} has none.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError("model must keep floating numbers alone, which are averaged and saved; "
                             f"{jax.tree_util.keystr(path)} is {leaf.dtype}.")
    outputs = jax.eval_shape(model.apply, variables, images)
    in_training, moved = jax.eval_shape(model.training_pass, variables, images, key)
    for each in (outputs, in_training):
        _check_outputs(each, num_classes)
    before, after = ({jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
                      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
                     for tree in (variables["batch_stats"], moved))
    if before != after:
        place = next(place for place in before | after if before.get(place) != after.get(place))
        raise ValueError("model must keep the shapes of what it carries from step to step; of "
                         f"{before.get(place, 'nothing')} at {place} a pass in training made "
                         f"{after.get(place, 'nothing')}.")


def check_model(model: nn.Module | WrappedNetwork, image_shape: Sequence[int], num_classes: int) -> None:
    """Raises ValueError unless a step can train ``model``.

    A :class:`~morel_jax.models.wrapped.WrappedNetwork` has its own rules, see :func:`morel_jax.models.wrap`. Any other
    must map float32[n, h, w, c] and ``train=`` to :class:`~morel_jax.models.Outputs`, features [n, width] and logits
    [n, classes]. Statistics under ``batch_stats`` need an attribute ``batch_norm_momentum``, the weight of the old ones
    in its BatchNorm layers, for the step sets it to 0 and moves them itself. It is traced with and without
    ``train``; errors of its own come through.

    Args:
        model: Flax module, or a WrappedNetwork.
        image_shape: (h, w, c).
        num_classes: logits that it must have.
    """
    if isinstance(model, WrappedNetwork):
        _check_wrapped(model, image_shape, num_classes)
        return
    parameters = inspect.signature(type(model).__call__).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not any_name and ("train" not in parameters or parameters["train"].default):
        raise ValueError("model must be called as model(images, train=False), False the default; "
                         f"{type(model).__name__} takes {', '.join(map(str, list(parameters.values())[1:]))}.{_WRAP}")
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    try:
        outputs = jax.eval_shape(model.apply, variables, images)
        in_training, _ = jax.eval_shape(functools.partial(model.apply, train=True, mutable=["batch_stats"]), variables,
                                        images)
    except flax.errors.InvalidRngError:
        raise ValueError("model must not draw random numbers, as a dropout layer does: a step has no key for them; "
                         f"{type(model).__name__} draws some.{_WRAP}") from None
    for each in (outputs, in_training):
        _check_outputs(each, num_classes)
    if "params" not in variables:
        raise ValueError(f"model must have parameters to train; {type(model).__name__} has none.")
    others = set(variables) - {"params", "batch_stats"}
    if others:
        raise ValueError("model must keep its variables in params and batch_stats; got "
                         f"{', '.join(sorted(others))} too.{_WRAP}")
    if "batch_stats" in variables and not hasattr(model, "batch_norm_momentum"):
        raise ValueError("model must have an attribute batch_norm_momentum that its BatchNorm layers take, as it has "
                         f"batch_stats; {type(model).__name__} has none.{_WRAP}")
