"""What training and evaluation ask of a network that moves its own statistics."""
import abc
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from morel_jax.models.outputs import Images, Outputs

Variables = Mapping[str, PyTree]

DRAWS = "model must not draw random numbers, as a dropout layer does, when it is told not to train"

# Arguments and attributes by which modules are told whether they train; of the second kind the opposite is said.
_TRAINING = ("train", "training", "is_training")
_NOT_TRAINING = ("deterministic", "use_running_average", "inference")


class WrappedNetwork(abc.ABC):
    """A network as this library calls one: like a Flax module's ``init`` and ``apply``, with a key for training.

    Its variables are ``{"params": …, "batch_stats": …}``; the second holds all that passes in training change.
    """

    @abc.abstractmethod
    def init(self, key: Array, images: Images) -> dict[str, PyTree]:
        """The variables of a new network."""

    @abc.abstractmethod
    def training_pass(self, variables: Variables, images: Images, key: Array) -> tuple[Outputs, PyTree]:
        """Outputs in training mode, and what ``batch_stats`` becomes by it."""

    @abc.abstractmethod
    def apply(self, variables: Variables, images: Images) -> Outputs:
        """Outputs with running statistics and without dropout."""


def mode(names: Any, train: bool) -> dict[str, bool]:
    """{argument or attribute: its value} that tells a module with these ``names`` whether it trains."""
    return ({name: train for name in _TRAINING if name in names}
            | {name: not train for name in _NOT_TRAINING if name in names})


def call_mode(module: Any, train: bool) -> dict[str, bool]:
    """:func:`mode` for the arguments of a module's call."""
    return mode(inspect.signature(type(module).__call__).parameters, train)


def outputs_of(result: Any, seen: list[Float[Array, "n ..."]], features: str | None, layers: list[str]) -> Outputs:
    """A network's result, and what its layer ``features`` was given, as Outputs in float32 at least.

    Raises:
        ValueError: the layer was not called, or more than once, or the result is not what it must be.
    """
    if features is None:
        if not isinstance(result, Outputs):
            raise ValueError("a network that does not return morel_jax.models.Outputs must be given with features, the "
                             f"name of the layer whose input is the feature vector; its layers: {', '.join(layers)}.")
        found, logits = result
    else:
        if len(seen) != 1:
            raise ValueError(f"features must name a layer that the network calls once; got {features!r}, which it "
                             f"calls {len(seen)} times. Its layers: {', '.join(layers)}.")
        (found,), logits = seen, result
    if not hasattr(logits, "dtype") or logits.ndim != 2:
        raise ValueError(f"a network must return logits [n, classes]; got "
                         f"{list(logits.shape) if hasattr(logits, 'shape') else type(logits).__name__}.")
    found = found.reshape(found.shape[0], -1)
    return Outputs(*(array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in (found, logits)))


def described(params: PyTree) -> str:
    """How many parameters there are, in how many arrays: what is printed of a network's values."""
    leaves = jax.tree.leaves(params)
    return f"{sum(leaf.size for leaf in leaves)} parameters in {len(leaves)} arrays"
