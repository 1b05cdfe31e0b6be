"""Attacks that look for the nearest adversarial image, whatever the radius."""
from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import Array

from morel_jax.attacks.inputs import prepare
from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.norms import largest_radius, norm
from morel_jax.attacks.types import Images, KeyOrKeys, Labels, Logits, LogitsFn, Mask, Values


class NearestState(AttackState):
    """
    Attributes:
        best: the nearest adversarial image so far; the image itself until there is one.
        best_distance: its distance; infinity until there is one, 0 for a misclassified example.
    """
    best: Images
    best_distance: Values


State = TypeVar("State", bound=NearestState)


def begin_nearest(x: Images, clean_logits: Logits, y: Labels) -> dict[str, Array]:
    """The fields of a new :class:`NearestState`, as :func:`~morel_jax.attacks.iterative.begin` has those of every
    state."""
    fields = begin(x, clean_logits, y)
    return fields | {"best": x, "best_distance": jnp.where(fields["found"], 0, jnp.inf).astype(x.dtype)}


class NearestAttack(IterativeAttack[State]):
    """Base of the attacks that keep the nearest adversarial image that they have seen.

    Attributes:
        norm: of the distance.
        thorough: whether the attack continues after something is found, for something nearer.
    """
    norm: str
    thorough: bool = True
    replace: Callable[..., Any]  # Made by `flax.struct.dataclass`.

    @property
    def bounded(self) -> bool:
        """Whether only an image within a radius counts as found; otherwise an image at any distance does."""
        return False

    def limit(self, x: Images) -> Any:
        """The largest distance that counts as found: here any in the box."""
        return largest_radius(self.norm, x.shape[1:])

    def keep(self, x: Images, point: Images, hit: Mask, state: State) -> State:
        """The state after ``point`` was judged: it is the best where it is a ``hit`` and nearer than any before."""
        distance = norm(self.norm).distance(point, x)
        nearer = hit & (distance < state.best_distance)
        best, best_distance = select(nearer, (point, distance), (state.best, state.best_distance))
        found = best_distance <= self.limit(x)
        return state.replace(found=found, x_adv=select(found, best, x), best=best, best_distance=best_distance)

    def minimal(self, logits_fn: LogitsFn, key: KeyOrKeys, x: Images, y: Labels) -> tuple[Images, Values]:
        """The nearest adversarial images that the whole attack finds, also those beyond a radius that it may have.

        Returns:
            (x_adv, distance): images in [0, 1], and their distances in the attack's norm: 0 for a misclassified
            example; infinity, with the image unchanged, where none was found.
        """
        attack = self if self.thorough else self.replace(thorough=True)
        state = attack.run(logits_fn, key, x, y)
        return prepare(self, logits_fn, x, y)[-1](state.best), state.best_distance
