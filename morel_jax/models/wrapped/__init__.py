"""Networks that were not written for this library, as training and evaluation call one."""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax import nnx

from morel_jax.models.wrapped.functions import FunctionNetwork
from morel_jax.models.wrapped.linen_module import LinenNetwork
from morel_jax.models.wrapped.network import WrappedNetwork
from morel_jax.models.wrapped.nnx_module import NNXNetwork

__all__ = ["WrappedNetwork", "from_functions", "wrap"]


def wrap(model: Any, features: str | None = None) -> WrappedNetwork:
    """A Flax network that maps images to logits, with the name of the layer whose input is the feature vector.

    The network keeps its own layers: BatchNorm of any class and momentum moves its own statistics, dropout gets keys
    from the training step, and other collections are kept beside ``batch_stats``. It must compute with running
    statistics and without dropout when it is told not to train: by an argument of its call, or an attribute, named
    ``train``, ``training``, ``is_training``, ``deterministic``, ``use_running_average`` or ``inference``; NNX modules
    by their ``train()`` and ``eval()``, too.

    Args:
        model: a linen module; an NNX module, whose values training begins with; or a function of ``nnx.Rngs`` that
            makes an NNX module, whose values then depend on the run's seed.
        features: path of the layer, such as ``head`` or ``classifier.fc``; what it is given is flattened to
            [n, width]. None: the network returns :class:`~morel_jax.models.Outputs` itself.

    Returns:
        A network for ``model=`` of :func:`~morel_jax.training.fit` and for
        :func:`~morel_jax.evaluation.as_logits_fn`.

    Raises:
        ValueError: no such network, or ``features`` is not a text. What it computes is checked when training begins.
    """
    if features is not None and (not isinstance(features, str) or not features):
        raise ValueError(f"features must be the name of a layer, such as 'head'; got {features!r}.")
    if isinstance(model, WrappedNetwork):
        if features is None:
            return model
        raise ValueError(f"features must not be given for a wrapped network, which has its own; got {features!r}.")
    if isinstance(model, nn.Module):
        return LinenNetwork(model, features)
    if isinstance(model, nnx.Module):
        return NNXNetwork.of_module(model, features)
    if callable(model) and not (isinstance(model, type) and issubclass(model, nn.Module)):
        return NNXNetwork.of_function(model, features)
    raise ValueError("model must be a Flax module (linen or NNX), a function of nnx.Rngs that makes an NNX module, or "
                     f"what morel_jax.models.from_functions returns; got {model!r:.100}.")


def from_functions(init: Callable, apply: Callable) -> WrappedNetwork:
    """A network of two functions, for libraries other than Flax.

    Args:
        init: (key, images float32[n, h, w, c]) -> (params, state): two pytrees of floating arrays; the second is what
            passes in training change, such as running statistics, and may be empty.
        apply: (params, state, images, train, key) -> (features, logits, state). ``train`` is a bool, ``key`` one key
            in training and None otherwise; the new state counts in training alone.

    Returns:
        As :func:`wrap`.
    """
    return FunctionNetwork(init, apply)
