"""The report card: ten checks of whether a robust accuracy can be believed.

A network can look robust because attacks fail rather than because it is. Each line looks for one symptom of that, of
Athalye et al. (arXiv:1802.00420), Carlini et al. (arXiv:1902.06705) or AutoAttack's flags
(github.com/fra31/auto-attack, flags_doc.md). A line that fails asks for a closer look at evaluation or network; ten
that pass prove nothing.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from morel_jax import checks
from morel_jax.attacks.checks import nondeterministic
from morel_jax.attacks.inputs import check_finite, check_images, check_labels, check_logits
from morel_jax.attacks.norms import largest_radius
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.attacks.types import KeyOrKeys, LogitsFn
from morel_jax.data.dataset import check_arrays
from morel_jax.evaluation import symptoms
from morel_jax.evaluation.evaluator import Evaluator, as_argument
from morel_jax.evaluation.measurements import Measurements, gradient_error, radii
from morel_jax.evaluation.symptoms import FEWEST_IMAGES, MORE_STEPS, NAMES, RESTARTS, STEPS, Line, Tally

# Images that are passed through the network again and again, uncompiled.
_REPEATED_IMAGES = 32


class ReportCard(NamedTuple):
    """
    Attributes:
        norm, epsilon: the ball.
        images: number of images.
        clean_accuracy: on them, in [0, 1].
        lines: one per symptom.
        epsilons, epsilon_accuracies: robust accuracy under PGD-20 by radius, from 0 to the whole box.
        iterations, iteration_accuracies, iteration_margins: robust accuracy by steps of one PGD-100, and the mean
            margin of the best wrong class over the images classified correctly. All five are empty without PGD.
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

    def to_dict(self) -> dict[str, Any]:
        """The card in plain values, fit for JSON."""
        return self._asdict() | {"lines": [line._asdict() for line in self.lines]}

    def to_markdown(self) -> str:
        """The card as a Markdown list."""
        return "\n".join(f"- **{line.verdict}** `{line.name}`: {line.text}" for line in self.lines)


def report_card(logits_fn: LogitsFn, key: KeyOrKeys, x: Float[np.ndarray, "n h w c"], y: Int[np.ndarray, " n"],
                epsilon: float, norm: str = "linf", *, batch_size: int = 100,
                progress: Callable[[str, int, int], None] | None = None, square_queries: int = 1000,
                square_gain: tuple[int, int] | None = None) -> ReportCard:
    """Looks for gradient masking and weak evaluation, one line per symptom.

    Images that are classified correctly are attacked; the others count as broken in every robust accuracy. PGD begins
    at a random point of the ball's boundary and climbs the cross-entropy in steps of 2.5 epsilon / steps. It has broken
    an image when one of its points is misclassified. An image's result depends on the key and its place alone.

    Args:
        logits_fn: for any number of images.
        x: images in [0, 1]; a few hundred are enough.
        epsilon: radius, in pixel units of images in [0, 1].
        norm: ``linf`` or ``l2``.
        batch_size: images at a time; it changes no result but by rounding.
        progress: called with (measurement's name, images done, images in all), as they are done.
        square_queries: of Square, on what APGD-CE leaves.
        square_gain: (images that Square alone broke, images in all) of an evaluation that ran Square after its
            white-box attacks; then neither is run here.

    Returns:
        The card. A line is ``not judged`` if JAX cannot take the network's gradient, if fewer than five images are
        classified correctly, or if too few are broken to tell.

    Raises:
        ValueError: no images, shapes that do not fit, images outside [0, 1], labels out of range, logits that are not
            finite, or an argument out of its range.
    """
    known_norm(norm)
    x, y = np.asarray(x), np.asarray(y)
    check_arrays(x, y, "x", "y")
    check_images(x)
    x, y = x.astype(np.float32), y.astype(np.int32)
    largest = largest_radius(norm, x.shape[1:])
    epsilon = checks.radius("epsilon", epsilon, largest, ", the whole box")
    batch_size = min(checks.whole_number("batch_size", batch_size, 1), len(x))
    square_queries = checks.whole_number("square_queries", square_queries, 1)
    if square_gain is not None and not (0 <= square_gain[0] <= square_gain[1] >= 1):
        raise ValueError("square_gain must be (images that Square alone broke, images in all), the first at most the "
                         f"second; got {square_gain}.")
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise ValueError(f"key must be a key, such as jax.random.key(0); got {key!r}.")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jnp.asarray(key))
    error = gradient_error(logits_fn, x[:batch_size])
    network = Evaluator(as_argument(logits_fn), x, y, batch_size)
    logits = network.logits(np.arange(len(x)), compiled=error is None).astype(np.float32)
    check_logits(logits, len(y))
    if logits.shape[1] < 2:
        raise ValueError(f"logits_fn must know at least two classes; got logits of shape {logits.shape}.")
    check_labels(y, len(y), logits.shape[1])
    check_finite(logits)

    right, repeated = np.flatnonzero(logits.argmax(-1) == y), x[:_REPEATED_IMAGES]
    lines = [symptoms.deterministic(nondeterministic(logits_fn, repeated), len(repeated)),
             symptoms.logits_not_probabilities(logits)]
    curves: dict[str, Any] = dict(epsilons=[], epsilon_accuracies=[], iterations=[], iteration_accuracies=[],
                                  iteration_margins=[])
    if square_gain is not None:
        lines.append(symptoms.black_box_beats_white_box(*square_gain, "in the full evaluation"))
    reason = None
    if error is not None:
        reason = f"JAX cannot take the network's gradient ({error})"
        lines.append(Line("gradients_usable", symptoms.FAIL, reason, {}))
    elif len(right) < FEWEST_IMAGES:
        reason = f"{len(right)} of {len(x)} images are classified right; {FEWEST_IMAGES} are needed"
    else:
        measurements = Measurements(network, key, right, norm, progress or (lambda *_: None))
        tally = Tally(len(x), len(right))
        attacked, curves = _attacked_lines(measurements, tally, epsilon, largest, logits.shape[1])
        lines += attacked
        if square_gain is None:
            white, both = measurements.white_then_black_box(epsilon, square_queries)
            lines.append(symptoms.black_box_beats_white_box(
                int(both.sum() - white.sum()), tally.images, f"APGD-CE leaves {tally.percent(white)}, Square after it "
                f"{tally.percent(both)} ({square_queries} queries)"))
    found = {line.name: line for line in lines}
    complete = tuple(found.get(name) or Line(name, symptoms.NOT_JUDGED, reason or "", {}) for name in NAMES)
    return ReportCard(norm=norm, epsilon=epsilon, images=len(x), clean_accuracy=len(right) / len(x), lines=complete,
                      **curves)


def _attacked_lines(measurements: Measurements, tally: Tally, epsilon: float, largest: float,
                    classes: int) -> tuple[list[Line], dict[str, Any]]:
    """The lines for which images are attacked, except Square's; and the curves."""
    epsilons = radii(epsilon, largest)
    by_epsilon = [measurements.pgd(one, STEPS)[1][:, -1] for one in epsilons]
    pgd = by_epsilon[epsilons.index(epsilon)]
    more, margins, course = measurements.restarted_pgd(epsilon, MORE_STEPS, RESTARTS)
    lines = [
        symptoms.one_step_beats_iterative(tally, measurements.one_step(epsilon), pgd),
        symptoms.largest_epsilon_at_chance(tally, largest, by_epsilon[-1], classes),
        symptoms.monotone_in_epsilon(tally, epsilons, by_epsilon),
        symptoms.more_effort_helps(tally, pgd, more),
        symptoms.gradients_usable(*measurements.gradient_norms(epsilon)),
        symptoms.loss_rises(margins),
        symptoms.noise_breaks_less(tally, measurements.noise(epsilon), pgd),
    ]
    means = margins.mean(axis=0, dtype=np.float64)
    return lines, dict(
        epsilons=[0.0, *epsilons], epsilon_accuracies=[tally.accuracy(one) for one in (np.zeros(0), *by_epsilon)],
        iterations=list(range(MORE_STEPS + 1)), iteration_accuracies=[tally.accuracy(one) for one in course.T],
        iteration_margins=[float(mean) if np.isfinite(mean) else None for mean in means])
