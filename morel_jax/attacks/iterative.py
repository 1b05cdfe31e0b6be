"""Attacks that move an example on by one step, a pass through the network or two, at a time.

Each example stands alone in such an attack: it has its own key, its own counters and its own end. So examples that
are at different places of their attacks can share a batch, one that is finished can make room for another
(`morel_jax.evaluation.pool`), and no result depends on what else was in the batch.
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
    """What is known of every example; an attack's own state adds fields, each with the examples in its first axis.

    Attributes:
        done: an example that is done stays as it is.
        found: whether ``x_adv`` is an adversarial image within the attack's bounds.
        x_adv: the image itself until something is found.
        steps: steps so far; the pass on the clean image before the first is none.
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
    """The fields of a fresh :class:`AttackState`, as a dict: misclassified examples are found already, and done.

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
        passes: through the network, forwards or with a gradient, in one step; the same for every example and step.
    """
    passes = 1

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> State:
        """The state before the first step, an :class:`AttackState` that :func:`begin` has begun."""
        raise NotImplementedError

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: State) -> State:
        """The state after one step, which evaluates the network on ``passes`` images per example.

        Its rows of examples that are done, and its ``steps``, do not matter: :meth:`advance` sees to them.
        """
        raise NotImplementedError

    def clean_logits(self, logits_fn: LogitsFn, keys: Keys, x: Images) -> Logits:
        """Logits on the clean images; a subclass that knows random networks gives them their keys here."""
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
        """The final state.

        Args:
            key: one key, or keys[n], one per example.
            x: images in [0, 1].
            skip: examples to leave alone.

        Returns:
            The attack's :class:`AttackState`, every example done.

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
        """Adversarial images like ``x``; an example for which none was found comes back unchanged.

        Arguments as in :meth:`run`.
        """
        return self.run(logits_fn, key, x, y).x_adv
