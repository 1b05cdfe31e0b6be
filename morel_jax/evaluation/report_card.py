"""The report card: ten verdicts on whether a robust accuracy can be believed.

A network can look robust because attacks fail rather than because it is. Each line looks for one symptom of that; the
symptoms are those of Athalye et al. (arXiv:1802.00420), Carlini et al. (arXiv:1902.06705) and AutoAttack's flags
(github.com/fra31/auto-attack, flags_doc.md). A line that fails says that the evaluation, or the network, needs a closer
look; ten that pass prove nothing, but find the usual mistakes.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import checks
from morel_jax.attacks.checks import nondeterministic
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.evaluation.suite import largest_epsilon
from morel_jax.evaluation.symptoms import Bench, clean_logits, gradient_error, radii
from morel_jax.evaluation.verdicts import (
    FAIL,
    FEWEST_IMAGES,
    MORE_STEPS,
    NOT_JUDGED,
    RESTARTS,
    STEPS,
    Line,
    Tally,
    black_box_beats_white_box,
    deterministic,
    gradients_usable,
    largest_epsilon_at_chance,
    logits_not_probabilities,
    loss_rises,
    monotone_in_epsilon,
    more_effort_helps,
    noise_breaks_less,
    one_step_beats_iterative,
)

# Images that are passed through the network again and again, uncompiled.
_REPEATED_IMAGES = 32

NAMES = ("one_step_beats_iterative", "black_box_beats_white_box", "largest_epsilon_at_chance", "monotone_in_epsilon",
         "more_effort_helps", "gradients_usable", "deterministic", "logits_not_probabilities", "loss_rises",
         "noise_breaks_less")


class ReportCard(NamedTuple):
    """
    Attributes:
        norm, epsilon: the ball.
        images: how many were judged on.
        clean_accuracy: on them, in [0, 1].
        lines: :class:`Line`, in the order of ``NAMES``.
        epsilons, epsilon_accuracies: robust accuracy under PGD-20 by radius, from 0 to the whole box.
        iterations, iteration_accuracies, iteration_margins: robust accuracy by steps of one PGD-100, and the mean
            margin of the best wrong class over the images classified right. The five lists are empty where PGD could
            not be run.
    """
    norm: str
    epsilon: float
    images: int
    clean_accuracy: float
    lines: tuple[Line, ...]
    epsilons: list[float]
    epsilon_accuracies: list[float]
    iterations: list[int]
    iteration_accuracies: list[float]
    iteration_margins: list[float | None]

    def to_dict(self):
        """The card in plain values, fit for JSON."""
        return self._asdict() | {"lines": [line._asdict() for line in self.lines]}

    def to_markdown(self):
        """The card as a Markdown list, a line each."""
        return "\n".join(f"- **{line.verdict}** `{line.name}`: {line.text}" for line in self.lines)


def report_card(logits_fn, key, x, y, epsilon, norm="linf", *, batch_size=100, progress=None, square_queries=1000,
                square_gain: tuple[int, int] | None = None):
    """Looks for gradient masking and weak evaluation, a verdict a symptom.

    Images that are classified right are attacked; the others count as broken in every robust accuracy. PGD begins at a
    random point of the ball's boundary, climbs the cross-entropy in steps of 2.5 epsilon / steps, and has broken an
    image when one of its points is misclassified. An image's result depends on the key and its place alone.

    Args:
        logits_fn: images float32[n, h, w, c] in [0, 1] -> logits float[n, classes], for any n.
        key: a key.
        x: float[n, h, w, c], images in [0, 1]; a few hundred are enough.
        y: int[n], labels.
        epsilon: radius, in pixel units of images in [0, 1].
        norm: ``linf`` or ``l2``.
        batch_size: images at a time; it changes no result but by rounding.
        progress: called with (measurement's name, images done, images in all), as they are done.
        square_queries: of Square, on what APGD-CE leaves.
        square_gain: (images that Square alone broke, images in all) where an evaluation has run Square behind its
            white-box attacks already; then neither is run here.

    Returns:
        :class:`ReportCard`. A line is ``not judged`` where the network has no gradient that JAX can take, where fewer
        than five images are classified right, or where too few are broken to tell.

    Raises:
        ValueError: no images, shapes that do not fit, images outside [0, 1], labels out of range, logits that are not
            finite, or an argument out of its range.

    Source: Athalye et al., arXiv:1802.00420; Carlini et al., arXiv:1902.06705; AutoAttack's flags.
    """
    known_norm(norm)
    x, y = _checked_images(x, y)
    largest = largest_epsilon(x.shape[1:], norm)
    epsilon = checks.radius("epsilon", epsilon, largest, ", the whole box")
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    square_queries = checks.whole_number("square_queries", square_queries, 1)
    _check_gain(square_gain)
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise ValueError(f"key must be a key, such as jax.random.key(0); got {key!r}.")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jnp.asarray(key))
    error = gradient_error(logits_fn, x[:batch_size])
    logits = clean_logits(logits_fn, x, batch_size, compiled=error is None)
    _check_logits(logits, y)

    right = np.flatnonzero(logits.argmax(-1) == y)
    repeated = x[:_REPEATED_IMAGES]
    lines = [deterministic(nondeterministic(logits_fn, repeated), len(repeated)), logits_not_probabilities(logits)]
    curves: dict[str, Any] = dict(epsilons=[], epsilon_accuracies=[], iterations=[], iteration_accuracies=[],
                                  iteration_margins=[])
    if square_gain is not None:
        lines.append(black_box_beats_white_box(*square_gain, "in the full evaluation"))
    if error is not None:
        reason = f"JAX cannot take the network's gradient ({error})"
        lines.append(Line("gradients_usable", FAIL, reason, {}))
    elif len(right) < FEWEST_IMAGES:
        reason = f"{len(right)} of {len(x)} images are classified right; {FEWEST_IMAGES} are needed"
    else:
        reason = ""
        bench = Bench(logits_fn, key, x, y, right, norm, batch_size, progress or (lambda *_: None))
        tally = Tally(len(x), len(right))
        attacked, curves = _attacked_lines(bench, tally, epsilon, largest, logits.shape[-1])
        lines += attacked
        if square_gain is None:
            lines.append(_square_line(bench, tally, epsilon, square_queries))
    found = {line.name: line for line in lines}
    return ReportCard(norm=norm, epsilon=epsilon, images=len(x), clean_accuracy=len(right) / len(x),
                      lines=tuple(found.get(name) or Line(name, NOT_JUDGED, reason, {}) for name in NAMES), **curves)


def _attacked_lines(bench, tally, epsilon, largest, classes):
    """The lines for which images are attacked, but Square's; and the curves."""
    epsilons = radii(epsilon, largest)
    by_epsilon = [bench.pgd(one, STEPS)[1][:, -1] for one in epsilons]
    pgd = by_epsilon[epsilons.index(epsilon)]
    more, margins, course = bench.restarted_pgd(epsilon, MORE_STEPS, RESTARTS)
    lines = [
        one_step_beats_iterative(tally, bench.one_step(epsilon), pgd),
        largest_epsilon_at_chance(tally, largest, by_epsilon[-1], classes),
        monotone_in_epsilon(tally, epsilons, by_epsilon),
        more_effort_helps(tally, pgd, more),
        gradients_usable(*bench.gradient_norms(epsilon)),
        loss_rises(margins),
        noise_breaks_less(tally, bench.noise(epsilon), pgd),
    ]
    means = margins.mean(axis=0, dtype=np.float64)
    return lines, dict(
        epsilons=[0.0, *epsilons], epsilon_accuracies=[tally.accuracy(one) for one in (np.zeros(0), *by_epsilon)],
        iterations=list(range(MORE_STEPS + 1)), iteration_accuracies=[tally.accuracy(one) for one in course.T],
        iteration_margins=[float(mean) if np.isfinite(mean) else None for mean in means])


def _square_line(bench, tally, epsilon, queries):
    white, both = bench.white_then_black_box(epsilon, queries)
    return black_box_beats_white_box(
        int(both.sum() - white.sum()), tally.images,
        f"APGD-CE leaves {tally.percent(white)}, Square after it {tally.percent(both)} ({queries} queries)")


def _checked_images(x, y):
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 4 or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"x must be float[n, h, w, c]; got {x.dtype}{list(x.shape)}.")
    if x.size == 0:
        raise ValueError(f"x must hold at least one image; got shape {x.shape}.")
    if not (x.min() >= 0 and x.max() <= 1):  # False for NaN too.
        raise ValueError(f"x must lie in [0, 1]; got {x.min():.9g} .. {x.max():.9g}.")
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"y must be int[{len(x)}], a label an image; got {y.dtype}{list(y.shape)}.")
    return x.astype(np.float32), y.astype(np.int32)


def _check_gain(square_gain):
    if square_gain is not None:
        gained, images = square_gain
        if not 0 <= gained <= images or images < 1:
            raise ValueError("square_gain must be (images that Square alone broke, images in all), the first at most "
                             f"the second; got {square_gain}.")


def _check_logits(logits, y):
    if logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise ValueError(f"logits_fn must give float[{len(y)}, classes] with two classes or more; "
                         f"got shape {logits.shape}.")
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError(f"y must be in 0 .. {logits.shape[1] - 1}; got {y.min()} .. {y.max()}.")
    if not np.isfinite(logits).all():
        raise ValueError("logits_fn must give finite logits on x; got NaN or infinite ones for "
                         f"{int(np.sum(~np.isfinite(logits).all(-1)))} of {len(y)} images.")
