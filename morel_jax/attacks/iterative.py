"""Attacks that move an example on by one step, a pass through the network or two, at a time.

Each example stands alone in such an attack: it has its own key, its own counters and its own end. So examples that
are at different places of their attacks can share a batch, one that is finished can make room for another
(`morel_jax.evaluation.pool`), and no result depends on what else was in the batch.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks.inputs import check_finite, misclassified, prepare
from morel_jax.attacks.keys import example_keys


@struct.dataclass
class AttackState:
    """What is known of every example; an attack's own state adds fields, each with the examples in its first axis.

    Attributes:
        done: bool[n]; an example that is done stays as it is.
        found: bool[n]; whether ``x_adv`` is an adversarial image within the attack's bounds.
        x_adv: float[n, h, w, c]; the image itself until something is found.
        steps: int32[n], steps so far; the pass on the clean image before the first is none.
    """
    done: Any
    found: Any
    x_adv: Any
    steps: Any


def select(mask, chosen, other):
    """Rows of ``chosen`` where ``mask`` bool[n] holds, of ``other`` elsewhere; both pytrees with n rows."""
    def rows(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a) - mask.ndim)), a, b)

    return jax.tree.map(rows, chosen, other)


def begin(x, clean_logits, y):
    """The fields of a fresh :class:`AttackState`, as a dict: misclassified examples are found already, and done.

    Raises:
        ValueError: logits that are not finite, where they are known.
    """
    check_finite(clean_logits)
    wrong = misclassified(clean_logits, y)
    return {"done": wrong, "found": wrong, "x_adv": x, "steps": jnp.zeros(x.shape[0], jnp.int32)}


class IterativeAttack:
    """Base of the attacks that work step by step.

    A subclass is a frozen pytree with two methods, free of any network evaluation but those in ``step``:

    - ``start(keys, x, y, clean_logits) -> state``, an :class:`AttackState` that :func:`begin` has begun;
    - ``step(logits_fn, keys, x, y, state) -> state``, which evaluates the network on ``passes`` images an example.
      What it gives for an example that is done, or for its ``steps``, does not matter: :meth:`advance` sees to them.

    Attributes:
        passes: through the network, forwards or with a gradient, in one step; the same for every example and step.
    """
    passes = 1

    def clean_logits(self, logits_fn, keys, x):
        """Logits on the clean images; a subclass that knows random networks gives them their keys here."""
        del keys
        return logits_fn(x)

    def first(self, logits_fn, keys, x, y):
        """The state before the first step, after one pass on the clean images. ``keys`` are keys[n]."""
        return self.start(keys, x, y, self.clean_logits(logits_fn, keys, x))

    def advance(self, logits_fn, keys, x, y, state):
        """One step for every example that is not done."""
        moved = self.step(logits_fn, keys, x, y, state)
        return select(state.done, state, moved.replace(steps=state.steps + 1))

    def run(self, logits_fn, key, x, y, skip=False):
        """The final state.

        Args:
            logits_fn: images float[n, h, w, c] -> logits float[n, classes].
            key: one key, or keys[n], one an example.
            x: float[n, h, w, c], images in [0, 1].
            y: int[n], labels.
            skip: bool[n], examples to leave alone.

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

    def __call__(self, logits_fn, key, x, y):
        """Adversarial images like ``x``; an example for which none was found comes back unchanged.

        Arguments as in :meth:`run`.
        """
        return self.run(logits_fn, key, x, y).x_adv
