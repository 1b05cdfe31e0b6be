"""The measurements behind a report card: attacks on the images that a network classifies correctly."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float32

from morel_jax.attacks import APGD, Square, checks
from morel_jax.attacks.iterative import IterativeAttack
from morel_jax.attacks.keys import fold_in_each, fold_in_name
from morel_jax.attacks.norms import norm
from morel_jax.attacks.types import Keys, Labels, LogitsFn, Points, Values
from morel_jax.evaluation.evaluator import Evaluator, Flags, Index, block_width
from morel_jax.evaluation.pool import Finished, Pool

Course = Bool[np.ndarray, "m steps+1"]       # Whether the points of an ascent are misclassified.
Margins = Float32[np.ndarray, "m steps+1"]  # By how much the best wrong class leads at them.

# Draws of noise: as many tries as PGD-20 has steps.
_DRAWS = 20
# Every ascent has room for this many steps, so that all share one program.
_MOST_STEPS = 100
# The radii of the curve, in units of epsilon; the last one is doubled until the whole box is reached.
_FACTORS = (0.25, 0.5, 0.75, 1, 1.5, 2)


def _random_gradient_norms(logits_fn: LogitsFn, keys: Keys, x: Points, y: Labels, epsilon: ArrayLike,
                           norm_name: str) -> tuple[Values, Values]:
    return checks.gradient_norms(logits_fn, norm(norm_name).random_boundary(keys, x, epsilon), y)


_ascend = jax.jit(checks.ascend, static_argnames=("norm_name", "longest"))
_noise_breaks = jax.jit(checks.noise_breaks, static_argnames=("norm_name", "draws"))
_gradient_norms = jax.jit(_random_gradient_norms, static_argnames="norm_name")


def gradient_error(logits_fn: LogitsFn, x: Float32[np.ndarray, "n h w c"]) -> str | None:
    """Why JAX cannot differentiate the network on ``x``, in one line; None if it can. Nothing is computed."""
    try:
        jax.eval_shape(jax.grad(lambda x: jnp.asarray(logits_fn(x), jnp.float32).sum()), x)
    except (TypeError, ValueError, NotImplementedError) as error:  # What tracing and differentiation raise.
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return None


def radii(epsilon: float, largest: float) -> list[float]:
    """The radii of the curve: fractions and multiples of ``epsilon``, then doubled, and ``largest`` at the end."""
    factors = list(_FACTORS)
    while 2 * factors[-1] * epsilon < largest:
        factors.append(2 * factors[-1])
    return [factor * epsilon for factor in factors if factor * epsilon < largest] + [largest]


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Attacks on the images ``index`` of a data set; results are NumPy arrays with a row for each of them.

    A row depends on the key and the image's place in the data set, not on the other images. ``progress`` is called with
    (measurement's name, images done, images in all).
    """
    evaluator: Evaluator
    key: Any
    index: Index
    norm: str
    progress: Callable

    def _each(self, name: str, function: Callable, *arguments: Any, rows: Index | slice = slice(None),
              key_name: str | None = None, **options: Any) -> Any:
        index, network, key = self.index[rows], self.evaluator, fold_in_name(self.key, key_name or name)
        return network.map(
            lambda rows: function(network.logits_fn, fold_in_each(key, rows), network.x(rows), network.labels[rows],
                                  *arguments, norm_name=self.norm, **options),
            index, lambda done: self.progress(name, done, len(index)))

    def _ascent(self, name: str, epsilon: float, num_steps: int, random_start: bool,
                **options: Any) -> tuple[Margins, Course]:
        """Margins, and whether points are misclassified, after 0 to ``num_steps`` steps."""
        course = self._each(name, _ascend, np.float32(epsilon), num_steps, random_start=random_start,
                            longest=_MOST_STEPS, **options)
        return course.margins[:, :num_steps + 1], course.wrong[:, :num_steps + 1]

    def one_step(self, epsilon: float) -> Flags:
        """Which images one step of length epsilon breaks: FGSM, or its equivalent in L2."""
        return self._ascent("fgsm", epsilon, 1, False)[1][:, 1]

    def pgd(self, epsilon: float, num_steps: int, restart: int = 0,
            rows: Index | slice = slice(None)) -> tuple[Margins, Course]:
        """(margins, broken) of at most 100 steps of PGD from a random start, the same for all radii up to its scale.

        An image counts as broken from the first misclassified point on.
        """
        margins, wrong = self._ascent(f"pgd-{num_steps} at {epsilon:.4g}", epsilon, num_steps, True, rows=rows,
                                      key_name=f"pgd-{num_steps}-{restart}")
        return margins, np.logical_or.accumulate(wrong, axis=1)

    def restarted_pgd(self, epsilon: float, num_steps: int, restarts: int) -> tuple[Flags, Margins, Course]:
        """(broken, margins, course): each restart attacks what the earlier ones left; the last two are of the first."""
        margins, course = self.pgd(epsilon, num_steps)
        broken = course[:, -1].copy()
        for restart in range(1, restarts):
            rows = np.flatnonzero(~broken)
            if len(rows):
                broken[rows] = self.pgd(epsilon, num_steps, restart, rows)[1][:, -1]
        return broken, margins, course

    def noise(self, epsilon: float) -> Flags:
        """Which images at least one of twenty draws of noise breaks."""
        return self._each("noise", _noise_breaks, np.float32(epsilon), draws=_DRAWS)

    def gradient_norms(self, epsilon: float) -> tuple[np.ndarray, ...]:
        """(ce, margin): float32[m, 2] each, at the image and at a random point of the ball's boundary."""
        pairs = [self._each("gradients", _gradient_norms, np.float32(radius)) for radius in (0, epsilon)]
        return tuple(np.stack(sizes, axis=1) for sizes in zip(*pairs, strict=True))

    def white_then_black_box(self, epsilon: float, queries: int) -> tuple[Flags, Flags]:
        """(white, both): which images APGD-CE breaks, and which it or Square, run on what it leaves."""
        white = self._pooled("apgd-ce", APGD(epsilon, norm=self.norm), epsilon, np.ones(len(self.index), bool))
        return white, white | self._pooled("square", Square(epsilon, queries, self.norm), epsilon, ~white)

    def _pooled(self, name: str, attack: IterativeAttack, epsilon: float, chosen: Flags) -> Flags:
        """Which of the ``chosen`` images ``attack`` breaks, each rechecked."""
        indices, network = self.index[chosen], self.evaluator.logits_fn
        found: dict = {}

        def report(finished: list[Finished]) -> None:
            found.update((one.index, one.rechecked["broken"]) for one in finished)
            self.progress(name, len(found), len(indices))

        if len(indices):
            blocks = dataclasses.replace(self.evaluator, width=block_width(network, self.evaluator.images.shape[1:]))
            Pool(attack, blocks, network, fold_in_name(self.key, name), epsilon, self.norm).run(indices, report)
        return np.array([bool(found.get(one, False)) for one in self.index])
