"""What a report card is written from: what attacks make of the images that a network classifies right."""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax.attacks.apgd import APGD
from morel_jax.attacks.checks import ascend, gradient_norms, noise_breaks
from morel_jax.attacks.keys import fold_in_each, fold_in_name
from morel_jax.attacks.norms import norm
from morel_jax.attacks.square import Square
from morel_jax.evaluation.evaluator import Evaluator, block_width
from morel_jax.evaluation.pool import Pool

# Draws of noise: as many tries as PGD-20 has steps.
_DRAWS = 20
# The most steps of an ascent; every ascent has room for them, and so the same program.
_MOST_STEPS = 100
# The radii of the curve, in units of epsilon; the last one is doubled until the whole box is reached.
_FACTORS = (0.25, 0.5, 0.75, 1, 1.5, 2)


@functools.partial(jax.jit, static_argnames="norm_name")
def _ascend(logits_fn, keys, x, y, epsilon, num_steps, random_start, norm_name):
    course = ascend(logits_fn, keys, x, y, epsilon, num_steps, norm_name, random_start, longest=_MOST_STEPS)
    return course.margins, course.wrong


@functools.partial(jax.jit, static_argnames="norm_name")
def _noise_breaks(logits_fn, keys, x, y, epsilon, norm_name):
    return noise_breaks(logits_fn, keys, x, y, epsilon, _DRAWS, norm_name)


@functools.partial(jax.jit, static_argnames="norm_name")
def _gradient_norms(logits_fn, keys, x, y, epsilon, norm_name):
    return gradient_norms(logits_fn, norm(norm_name).random_boundary(keys, x, epsilon), y)


def gradient_error(logits_fn, x):
    """Why JAX cannot differentiate the network on ``x`` float[n, h, w, c], in one line; None if it can.

    Nothing is computed.
    """
    try:
        jax.eval_shape(jax.grad(lambda x: jnp.asarray(logits_fn(x), jnp.float32).sum()), x)
    except (TypeError, ValueError, NotImplementedError) as error:  # What tracing and differentiation raise.
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return None


def radii(epsilon, largest):
    """The radii of the curve: fractions and multiples of ``epsilon``, then doubled, and ``largest`` at the end."""
    factors = list(_FACTORS)
    while 2 * factors[-1] * epsilon < largest:
        factors.append(2 * factors[-1])
    return [factor * epsilon for factor in factors if factor * epsilon < largest] + [largest]


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Attacks on some images of a data set.

    Results are NumPy arrays with one row for each of ``index``. They depend on the key and on an image's place in the
    data set, not on the other images.

    Attributes:
        evaluator: the network on the data set.
        key: a key.
        index: int[m], places of the images to attack.
        norm: ``linf`` or ``l2``.
        progress: called with (measurement's name, images done, images in all).
    """
    evaluator: Evaluator
    key: Any
    index: np.ndarray
    norm: str
    progress: Callable

    def _each(self, name, function, *arguments, rows=None, key_name=None):
        index = self.index if rows is None else self.index[rows]
        key, network = fold_in_name(self.key, key_name or name), self.evaluator

        def attacked(rows):
            return function(network.logits_fn, fold_in_each(key, rows), network.x(rows), network.labels[rows],
                            *arguments, self.norm)

        return network.map(attacked, index, lambda done: self.progress(name, done, len(index)))

    def one_step(self, epsilon):
        """bool[m], broken by one step of length epsilon from the image: FGSM, or its equivalent in L2."""
        _, wrong = self._each("fgsm", _ascend, np.float32(epsilon), 1, False)
        return wrong[:, 1]

    def pgd(self, epsilon, num_steps, restart=0, rows=None):
        """PGD of at most 100 steps from a random start, the same for all radii up to its scale.

        Returns:
            (margins float32[m, num_steps + 1], broken bool[m, num_steps + 1]): an image counts as broken from the
            first misclassified point on.
        """
        margins, wrong = self._each(f"pgd-{num_steps} at {epsilon:.4g}", _ascend, np.float32(epsilon), num_steps, True,
                                    rows=rows, key_name=f"pgd-{num_steps}-{restart}")
        return margins[:, :num_steps + 1], np.logical_or.accumulate(wrong[:, :num_steps + 1], axis=1)

    def restarted_pgd(self, epsilon, num_steps, restarts):
        """PGD with restarts, each on what the ones before it left.

        Returns:
            (broken bool[m], margins and broken of the first one as :meth:`pgd` returns them).
        """
        margins, course = self.pgd(epsilon, num_steps)
        broken = course[:, -1].copy()
        for restart in range(1, restarts):
            rows = np.flatnonzero(~broken)
            if len(rows):
                broken[rows] = self.pgd(epsilon, num_steps, restart, rows)[1][:, -1]
        return broken, margins, course

    def noise(self, epsilon):
        """bool[m], broken by at least one of twenty draws of noise."""
        return self._each("noise", _noise_breaks, np.float32(epsilon))

    def gradient_norms(self, epsilon):
        """(ce, margin): float32[m, 2] each, at the image and at a random point of the ball's boundary."""
        pairs = [self._each("gradients", _gradient_norms, np.float32(radius)) for radius in (0, epsilon)]
        return tuple(np.stack(sizes, axis=1) for sizes in zip(*pairs, strict=True))

    def white_then_black_box(self, epsilon, queries):
        """APGD-CE, and Square on what it leaves.

        Returns:
            (white, both): bool[m], broken by APGD-CE; and by either of them.
        """
        white = self._pooled("apgd-ce", APGD(epsilon, norm=self.norm), epsilon, np.arange(len(self.index)))
        left = np.flatnonzero(~white)
        return white, white | self._pooled("square", Square(epsilon, queries, self.norm), epsilon, left)

    def _pooled(self, name, attack, epsilon, rows):
        """bool[m], broken by ``attack`` among ``rows``, each rechecked."""
        broken, place, done = np.zeros(len(self.index), bool), {one: row for row, one in enumerate(self.index)}, 0

        def report(finished):
            nonlocal done
            for one in finished:
                broken[place[one.index]] = one.rechecked["broken"]
            done += len(finished)
            self.progress(name, done, len(rows))

        if len(rows):
            network = self.evaluator.logits_fn
            blocks = dataclasses.replace(self.evaluator, width=block_width(network, self.evaluator.images.shape[1:]))
            pool = Pool(attack, blocks, network, fold_in_name(self.key, name), epsilon, self.norm)
            pool.run(self.index[rows], report)
        return broken
