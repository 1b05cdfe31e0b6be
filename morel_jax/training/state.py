"""What a run carries from step to step, and the numbers that it may sweep."""
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Key, PyTree

from morel_jax import losses


@jax.tree_util.register_pytree_node_class
class HParams:
    """Numbers that a sweep may change without compiling again; every one is a traced leaf.

    Attributes:
        attack: the training attack, a pytree whose epsilon and step size are leaves.
        (others): each number by its name: the ``traced`` names of ``morel_jax.configuration.FIELDS``, and what the
            schedules of the optimiser and of the method give, such as ``learning_rate``. All are of one epoch.
    """

    def __init__(self, attack: Any, **numbers: Any) -> None:
        self.attack, self.numbers = attack, numbers

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["numbers"][name]
        except KeyError:
            raise AttributeError(f"HParams has no number {name!r}; it has {', '.join(self.__dict__['numbers'])}."
                                 if "numbers" in self.__dict__ else name) from None

    def replace(self, **changes: Any) -> "HParams":
        """A copy with other numbers, or another attack, under the same names."""
        unknown = changes.keys() - self.numbers.keys() - {"attack"}
        if unknown:
            raise TypeError(f"HParams has no number {', '.join(sorted(unknown))}.")
        return HParams(**{"attack": self.attack, **self.numbers, **changes})

    def tree_flatten(self) -> tuple[tuple, tuple[str, ...]]:
        """The attack and the numbers, and the numbers' names."""
        names = tuple(sorted(self.numbers))
        return (self.attack, *(self.numbers[name] for name in names)), names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], leaves: Sequence[Any]) -> "HParams":
        """The inverse of :meth:`tree_flatten`."""
        attack, *numbers = leaves
        return cls(attack, **dict(zip(names, numbers, strict=True)))


class TrainState(struct.PyTreeNode):
    """A run between two steps.

    Attributes:
        step: int32[], updates made so far.
        params: ``{"classifier": …}``, and ``"embedding"`` beside it when the method has an embedding space.
        batch_stats: running statistics of the classifier's BatchNorm.
        opt_state: Optax state for ``params``.
        average: moving or plain average of the classifier's params and batch_stats, or None.
        famo: ``losses.FamoState`` of a run whose losses FAMO weighs, or None.
    """
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None
    famo: Any = None

    def inference_variables(self) -> PyTree:
        """Variables of the plain classifier that is judged: the averaged weights where there are any."""
        if self.average is not None:
            return self.average
        return {"params": self.params["classifier"], "batch_stats": self.batch_stats}


def create_state(parts: Any, key: Key[Array, ""], image_shape: Sequence[int], hparams: HParams,
                 average: bool) -> TrainState:
    """A new run's state.

    Args:
        parts: the run's :class:`~morel_jax.training.step.Parts`.
        key: initial values depend on it alone.
        image_shape: (h, w, c) of one image.
        hparams: :class:`HParams`; its values do not change the initial state.
        average: keep a moving average of the weights.

    Returns:
        TrainState at step 0.
    """
    classifier_key, embedding_key = jax.random.split(key)
    variables = parts.model.init(classifier_key, jnp.zeros((1, *image_shape), jnp.float32))
    params = {"classifier": variables["params"]}
    batch_stats = variables.get("batch_stats", {})
    if parts.embedding is not None:
        features = jax.eval_shape(parts.model.apply, variables, jnp.zeros((1, *image_shape), jnp.float32)).features
        params["embedding"] = parts.embedding.init(
            embedding_key, jnp.zeros(features.shape, features.dtype), jnp.zeros((1,), jnp.int32))["params"]
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, batch_stats=batch_stats,
                       opt_state=parts.optimizer(hparams).init(params),
                       famo=losses.famo_start(parts.famo_objectives) if parts.famo_objectives else None)
    # A copy: the step donates its state, and one buffer cannot be given away twice.
    average_of_one = jax.tree.map(jnp.copy, state.inference_variables()) if average else None
    return dataclasses.replace(state, average=average_of_one)
