"""Attacks that advance an example one step, of one or two passes through the network, at a time.

Each example has its own key, counters and end. So examples at different stages can share a batch, a finished one can
make room for another (`morel_jax.evaluation.pool`), and no result depends on the rest of the batch.
"""
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, PyTree

from morel_jax.attacks.inputs import check_finite, misclassified, prepare
from morel_jax.attacks.keys import example_keys
from morel_jax.attacks.types import Counts, Images, KeyOrKeys, Keys, Labels, Logits, LogitsFn, Mask


class AttackState(struct.PyTreeNode):
    """The state of every example; an attack's own state adds fields, each with the examples along its first axis.

    Attributes:
        done: an example that is done stays as it is.
        found: whether ``x_adv`` is an adversarial image within the attack's bounds.
        x_adv: the image itself until something is found.
        steps: steps so far, without the pass on the clean image before the first.
    """
    done: Mask
    found: Mask
    x_adv: Images
    steps: Counts


State = TypeVar("State", bound=AttackState)
Rows = TypeVar("Rows", bound=PyTree)


def select(mask: Mask, chosen: Rows, other: Rows) -> Rows:
    """Rows of ``chosen`` where ``mask`` holds, of ``other`` elsewhere; both pytrees with n rows."""
    def rows(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a) - mask.ndim)), a, b)

    return jax.tree.map(rows, chosen, other)


def begin(x: Images, clean_logits: Logits, y: Labels) -> dict[str, Array]:
    """The fields of a new :class:`AttackState`, as a dict: misclassified examples are found and done.

    Raises:
        ValueError: logits that are not finite, where they are known.
    """
    check_finite(clean_logits)
    wrong = misclassified(clean_logits, y)
    return {"done": wrong, "found": wrong, "x_adv": x, "steps": jnp.zeros(x.shape[0], jnp.int32)}


class IterativeAttack(Generic[State]):
    """Base of the attacks that work step by step.

    A subclass is a frozen pytree with the methods ``start`` and ``step``; only ``step`` evaluates the network.

    Attributes:
        passes: through the network, with or without a gradient, in one step; the same for every example and step.
    """
    passes = 1

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> State:
        """The state before the first step, with the fields of :func:`begin`."""
        raise NotImplementedError

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: State) -> State:
        """The state after one step, which evaluates the network on ``passes`` images per example.

        Rows of examples that are done, and ``steps``, do not matter: :meth:`advance` sets them.
        """
        raise NotImplementedError

    def clean_logits(self, logits_fn: LogitsFn, keys: Keys, x: Images) -> Logits:
        """Logits on the clean images; a subclass for random networks passes their keys here."""
        del keys
        return logits_fn(x)

    def first(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels) -> State:
        """The state before the first step, after one pass on the clean images."""
        return self.start(keys, x, y, self.clean_logits(logits_fn, keys, x))

    def advance(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: State) -> State:
        """One step for every example that is not done."""
        moved = self.step(logits_fn, keys, x, y, state)
        return select(state.done, state, moved.replace(steps=state.steps + 1))

    def run(self, logits_fn: LogitsFn, key: KeyOrKeys, x: Images, y: Labels, skip: Mask | bool = False) -> State:
        """The final state, every example done.

        Args:
            key: one key, or keys[n], one per example.
            x: images in [0, 1].
            skip: examples to leave alone.

        Raises:
            ValueError: images, labels, logits or numbers that make no sense, where their values are known.
        """
        attack, logits_fn, x, y, finish = prepare(self, logits_fn, x, y)
        keys = example_keys(key, x.shape[0])
        first = attack.first(logits_fn, keys, x, y)
        state = jax.lax.while_loop(
            lambda state: ~jnp.all(state.done),
            lambda state: attack.advance(logits_fn, keys, x, y, state),
            first.replace(done=first.done | skip),
        )
        return jax.lax.stop_gradient(state.replace(x_adv=finish(state.x_adv)))

    def __call__(self, logits_fn: LogitsFn, key: KeyOrKeys, x: Images, y: Labels) -> Images:
        """Adversarial images; an example for which none was found is returned unchanged. Arguments as in
        :meth:`run`."""
        return self.run(logits_fn, key, x, y).x_adv
