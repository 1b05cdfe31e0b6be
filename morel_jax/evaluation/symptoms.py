"""What the report card is written from: what attacks make of the images that a network classifies right."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax.attacks.apgd import APGD
from morel_jax.attacks.checks import ascend, gradient_norms, noise_breaks
from morel_jax.attacks.keys import fold_in_each, fold_in_name
from morel_jax.attacks.norms import norm
from morel_jax.attacks.square import Square
from morel_jax.evaluation.pool import Pool, as_argument, block_width

# Draws of noise: as many tries as PGD-20 has steps.
_DRAWS = 20
# Steps of the longest ascent, for which all have room.
_LONGEST = 100
# The radii of the curve, in units of epsilon; doubled from the last one on until the whole box is reached.
_FACTORS = (0.25, 0.5, 0.75, 1, 1.5, 2)


@functools.partial(jax.jit, static_argnames="norm_name")
def _ascend(logits_fn, key, index, x, y, epsilon, num_steps, random_start, norm_name):
    keys = fold_in_each(key, index)
    course = ascend(logits_fn, keys, x, y, epsilon, num_steps, norm_name, random_start, longest=_LONGEST)
    return course.margins, course.wrong


@functools.partial(jax.jit, static_argnames="norm_name")
def _noise_breaks(logits_fn, key, index, x, y, epsilon, norm_name):
    return noise_breaks(logits_fn, fold_in_each(key, index), x, y, epsilon, _DRAWS, norm_name)


@functools.partial(jax.jit, static_argnames="norm_name")
def _gradient_norms(logits_fn, key, index, x, y, epsilon, norm_name):
    return gradient_norms(logits_fn, norm(norm_name).random_boundary(fold_in_each(key, index), x, epsilon), y)


@jax.jit
def _logits(logits_fn, x):
    return jnp.asarray(logits_fn(x), jnp.float32)


def gradient_error(logits_fn, x):
    """Why JAX cannot differentiate the network, in one line; None if it can. Nothing is computed.

    Args:
        logits_fn: images float[n, h, w, c] -> logits float[n, classes].
        x: float[n, h, w, c], of the shape that it will be called with.
    """
    try:
        jax.eval_shape(jax.grad(lambda x: jnp.asarray(logits_fn(x), jnp.float32).sum()), x)
    except (TypeError, ValueError, NotImplementedError) as error:  # What tracing and differentiation raise.
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return None


def clean_logits(logits_fn, x, batch_size, compiled=True):
    """Logits float32[n, classes] on ``x``, as a numpy array, in batches of one shape.

    Args:
        logits_fn: images float[m, h, w, c] -> logits float[m, classes].
        x: float[n, h, w, c].
        batch_size: the last batch is filled up and the filling not returned.
        compiled: False for a network that JAX cannot trace.
    """
    call = functools.partial(_logits, as_argument(logits_fn)) if compiled else logits_fn
    size = min(batch_size, len(x))
    parts = [np.asarray(call(np.resize(x[first:first + size], (size, *x.shape[1:]))), np.float32)
             for first in range(0, len(x), size)]
    return np.concatenate(parts)[:len(x)]


def radii(epsilon, largest):
    """The radii of the curve: parts and multiples of ``epsilon``, then doubled, and ``largest`` at the end."""
    factors = list(_FACTORS)
    while 2 * factors[-1] * epsilon < largest:
        factors.append(2 * factors[-1])
    return [factor * epsilon for factor in factors if factor * epsilon < largest] + [largest]


class Bench:
    """Attacks on some images of a data set, in batches of one shape.

    Results are numpy arrays with one row for each of ``index``. They depend on the key and an image's place in the
    data set, not on the batch.

    Args:
        logits_fn: images float[n, h, w, c] -> logits float[n, classes].
        key: a key.
        x: float32[n, h, w, c], the data set.
        y: int[n].
        index: int[m], places of the images to attack.
        norm_name: ``linf`` or ``l2``.
        batch_size: images at a time.
        progress: called with (measurement's name, images done, images in all).
    """

    def __init__(self, logits_fn, key, x, y, index, norm_name, batch_size, progress):
        self._logits_fn, self._key, self._x, self._y = as_argument(logits_fn), key, x, y
        self.index, self._norm, self._progress = index, norm_name, progress
        self._size = min(batch_size, len(x))

    def _each(self, name, function, *arguments, rows=None, key_name=None):
        index = self.index if rows is None else self.index[rows]
        key, parts = fold_in_name(self._key, key_name or name), []
        for first in range(0, len(index), self._size):
            taken = index[first:first + self._size]
            filled = np.resize(taken, self._size)
            found = function(self._logits_fn, key, filled, self._x[filled], self._y[filled], *arguments)
            parts.append(jax.device_get(found))
            self._progress(name, first + len(taken), len(index))
        # The filling is in the last batch alone.
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:len(index)], *parts)

    def one_step(self, epsilon):
        """bool[m], broken by one step of length epsilon from the image: FGSM, or its like in L2."""
        _, wrong = self._each("fgsm", _ascend, np.float32(epsilon), 1, False, self._norm)
        return wrong[:, 1]

    def pgd(self, epsilon, num_steps, restart=0, rows=None):
        """PGD of at most 100 steps from a random start, the same for all radii up to its scale.

        Returns:
            (margins float32[m, num_steps + 1], broken bool[m, num_steps + 1]): an image counts as broken from the
            first misclassified point on.
        """
        margins, wrong = self._each(f"pgd-{num_steps} at {epsilon:.4g}", _ascend, np.float32(epsilon), num_steps, True,
                                    self._norm, rows=rows, key_name=f"pgd-{num_steps}-{restart}")
        return margins[:, :num_steps + 1], np.logical_or.accumulate(wrong[:, :num_steps + 1], axis=1)

    def restarted_pgd(self, epsilon, num_steps, restarts):
        """PGD with restarts, each on what the ones before it left.

        Returns:
            (broken bool[m], margins, broken of the first one as :meth:`pgd` gives them).
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
        return self._each("noise", _noise_breaks, np.float32(epsilon), self._norm)

    def gradient_norms(self, epsilon):
        """(ce, margin): float32[m, 2] each, at the image and at a random point of the ball's boundary."""
        pairs = [self._each("gradients", _gradient_norms, np.float32(radius), self._norm) for radius in (0, epsilon)]
        return tuple(np.stack(sizes, axis=1) for sizes in zip(*pairs, strict=True))

    def white_then_black_box(self, epsilon, queries):
        """APGD-CE, and Square on what it leaves.

        Returns:
            (white, both): bool[m], broken by APGD-CE; and by either of them.
        """
        white = self._pooled("apgd-ce", APGD(epsilon, norm=self._norm), epsilon, np.arange(len(self.index)))
        left = np.flatnonzero(~white)
        return white, white | self._pooled("square", Square(epsilon, queries, self._norm), epsilon, left)

    def _pooled(self, name, attack, epsilon, rows):
        """bool[m], broken by ``attack`` among ``rows``, each checked and classified again by the judge."""
        broken, place, done = np.zeros(len(self.index), bool), {i: row for row, i in enumerate(self.index)}, 0

        def report(finished):
            nonlocal done
            for one in finished:
                broken[place[one.index]] = one.verdict["broken"]
            done += len(finished)
            self._progress(name, done, len(rows))

        if len(rows):
            Pool(attack, self._logits_fn, self._logits_fn, fold_in_name(self._key, name), lambda index: self._x[index],
                 self._y, epsilon, block_width(self._logits_fn, self._x.shape[1:]), self._norm).run(self.index[rows],
                                                                                                   report)
        return broken
