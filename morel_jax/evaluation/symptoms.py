"""The symptoms that a report card looks for: the thresholds and the wording.

Each function turns measurements into one :class:`Line` of the function's name. Accuracies are over all images,
including those that are misclassified without an attack.
"""
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Float32

from morel_jax.attacks.checks import Repeats, looks_like_probabilities
from morel_jax.evaluation.evaluator import Flags

Found = tuple[bool | str, str, dict[str, Any]]
PASS, FAIL, NOT_JUDGED = "pass", "fail", "not judged"
# The symptoms, in the order of a card's lines.
NAMES: list[str] = []

# Two attacks on the same images differ by chance, through their random starts. A difference counts if a one-sided sign
# test (McNemar's, exact) on the images that only one of the two breaks is significant at this level ...
SIGNIFICANCE = 0.05
# ... which takes at least this many images, as 2^-5 < 0.05 < 2^-4 ...
FEWEST_IMAGES = 5
# ... and if it is at least this many points of robust accuracy, the smallest difference that is reported.
NOTICEABLE_POINTS = 0.5
# More effort always finds something; robust accuracies are quoted to about a point.
CONVERGED_POINTS = 1.0
# AutoAttack's code warns when Square lowers the robust accuracy by more than this. On 200 images that is less than one
# image; with a true 0.2 points, three or more break in fewer than one card in a hundred.
SQUARE_POINTS, SQUARE_IMAGES = 0.2, 3
# Images without a gradient are not attacked: one in a hundred changes the robust accuracy by at most a point.
ZERO_GRADIENTS = 0.01
# The cross-entropy's gradient has vanished when it is this small compared with the margin's: their ratio is the wrong
# classes' probability, here below float32's rounding of the right class's.
VANISHED = float(np.finfo(np.float32).eps)
# AutoAttack's code calls a network random if logits scaled to length 1 differ by more; rounding makes 1e-7.
SAME_LOGITS = 1e-4
# In the end, steps of fixed size circle around the maximum: the last point may lose this fraction of the rise.
LOSS_FALL = 0.1
# Noise breaks "as many" as the attack from this fraction on.
AS_MANY = 0.9
# The attacks that are compared.
STEPS, MORE_STEPS, RESTARTS = 20, 100, 5


class Line(NamedTuple):
    """One line of a report card.

    Attributes:
        name: one of ``NAMES``.
        verdict: ``pass``, ``fail`` or ``not judged``.
        text: the figures in words, or why the line was not judged.
        figures: the same as a dict of numbers.
    """
    name: str
    verdict: str
    text: str
    figures: dict


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


class Tally(NamedTuple):
    """How many images there are, and how many of them are classified right and attacked."""
    images: int
    right: int

    def accuracy(self, broken: Flags) -> float:
        """Robust accuracy in [0, 1] if the attacked images bool[right] are broken."""
        return (self.right - int(np.sum(broken))) / self.images

    def percent(self, broken: Flags) -> str:
        """The same in words."""
        return _percent(self.accuracy(broken))


def sign_test(ahead: int, behind: int) -> float:
    """Probability that, of ``ahead + behind`` fair coins, ``ahead`` or more show heads."""
    tosses = ahead + behind
    return float(scipy.stats.binomtest(ahead, tosses, alternative="greater").pvalue) if tosses else 1.0


def clearly_more(ahead: int, behind: int, images: int, points: float) -> bool:
    """Whether an attack that alone breaks ``ahead`` of all ``images`` beats one that alone breaks ``behind``.

    It must do so beyond chance and by more than ``points`` of robust accuracy.
    """
    return 100 * (ahead - behind) > points * images and sign_test(ahead, behind) <= SIGNIFICANCE


def _only(one: Flags, other: Flags) -> tuple[int, int]:
    """How many images only the one attack breaks, and only the other."""
    return int(np.sum(one & ~other)), int(np.sum(other & ~one))


def _symptom(function: Callable[..., Found]) -> Callable[..., Line]:
    """Makes a function that returns (verdict or whether it fails, text, figures) return a :class:`Line` of its name."""
    @functools.wraps(function)
    def line(*measured: Any) -> Line:
        verdict, text, figures = function(*measured)
        if not isinstance(verdict, str):
            verdict = FAIL if verdict else PASS
        return Line(function.__name__, verdict, text, figures)

    NAMES.append(function.__name__)
    return line


@_symptom
def one_step_beats_iterative(tally: Tally, one_step: Flags, pgd: Flags) -> Found:
    """Fails if FGSM breaks clearly more than PGD-20."""
    ahead, behind = _only(one_step, pgd)
    text = (f"FGSM leaves {tally.percent(one_step)}, PGD-{STEPS} {tally.percent(pgd)} ({tally.images} images; "
            f"FGSM alone breaks {ahead}, PGD-{STEPS} alone {behind})")
    return clearly_more(ahead, behind, tally.images, NOTICEABLE_POINTS), text, dict(
        fgsm_accuracy=tally.accuracy(one_step), pgd_accuracy=tally.accuracy(pgd), only_fgsm=ahead, only_pgd=behind)


@_symptom
def black_box_beats_white_box(gained: int, images: int, what: str) -> Found:
    """Fails if Square breaks more than 0.2 points, and three images, of what white-box attacks left."""
    clear, enough = 100 * gained > SQUARE_POINTS * images, gained >= SQUARE_IMAGES
    text = (f"{what}: {100 * gained / images:.1f} points lost to Square ({gained} of {images} images"
            + (f"; fewer than {SQUARE_IMAGES} may be chance)" if clear and not enough else ")"))
    return clear and enough, text, dict(broken_by_square_alone=gained, images=images)


@_symptom
def largest_epsilon_at_chance(tally: Tally, epsilon: float, pgd: Flags, classes: int) -> Found:
    """Fails if PGD-20 leaves more than chance although it may turn any image into any other."""
    text = (f"at epsilon {epsilon:.4g}, the whole box, PGD-{STEPS} leaves {tally.percent(pgd)} "
            f"(chance is {_percent(1 / classes)}; {tally.images} images)")
    return tally.accuracy(pgd) > 1 / classes, text, dict(
        epsilon=epsilon, accuracy=tally.accuracy(pgd), chance=1 / classes)


@_symptom
def monotone_in_epsilon(tally: Tally, epsilons: Sequence[float], broken: Sequence[Flags]) -> Found:
    """Fails if PGD-20 breaks clearly fewer at one radius than at a smaller one; ``broken`` in the order of radii."""
    failed, falls = False, []
    for place in range(1, len(epsilons)):
        best = max(range(place), key=lambda smaller: np.sum(broken[smaller]))
        ahead, behind = _only(broken[best], broken[place])
        falls.append((ahead - behind, best, place))
        failed |= clearly_more(ahead, behind, tally.images, NOTICEABLE_POINTS)
    fall, small, large = max(falls)
    text = f"PGD-{STEPS} leaves " + ", ".join(f"{tally.percent(one)} at {epsilon:.3g}" for one, epsilon in zip(
        broken, epsilons, strict=True)) + f" ({tally.images} images)"
    if fall > 0:
        text += f"; {fall} fewer are broken at {epsilons[large]:.3g} than at {epsilons[small]:.3g}"
    return failed, text, dict(largest_fall=max(fall, 0))


@_symptom
def more_effort_helps(tally: Tally, pgd: Flags, more: Flags) -> Found:
    """Fails if PGD-100 with 5 restarts breaks clearly more than PGD-20, by more than a point."""
    ahead, behind = _only(more, pgd)
    text = (f"PGD-{STEPS} leaves {tally.percent(pgd)}, PGD-{MORE_STEPS} with {RESTARTS} restarts {tally.percent(more)} "
            f"({tally.images} images)")
    return clearly_more(ahead, behind, tally.images, CONVERGED_POINTS), text, dict(
        pgd_accuracy=tally.accuracy(pgd), more_accuracy=tally.accuracy(more), only_more=ahead, only_pgd=behind)


@_symptom
def gradients_usable(ce: Float32[np.ndarray, "m 2"], margin: Float32[np.ndarray, "m 2"]) -> Found:
    """Fails if a gradient is NaN or infinite, or has vanished at more than 1 % of the points, images and starts.

    ``ce`` and ``margin`` are the largest entries of the two losses' gradients.
    """
    infinite = int(np.sum(~np.isfinite(ce))), int(np.sum(~np.isfinite(margin)))
    vanished, zero = float(np.mean(ce <= VANISHED * margin)), float(np.mean(margin == 0))
    text = (f"the cross-entropy's gradient has vanished at {_percent(vanished)} of {ce.size} points, images and random "
            f"starts, the margin's at {_percent(zero)}; NaN or infinite: {infinite[0]} and {infinite[1]}")
    return any(infinite) or max(vanished, zero) > ZERO_GRADIENTS, text, dict(
        points=ce.size, ce_vanished=vanished, margin_vanished=zero, ce_not_finite=infinite[0],
        margin_not_finite=infinite[1])


@_symptom
def deterministic(repeats: Repeats, images: int) -> Found:
    """Fails if a second pass gives other logits or another class; the other lines then saw one draw, or noise."""
    failed = repeats.difference > SAME_LOGITS or repeats.changed > 0
    text = (f"repeated passes differ by {repeats.difference:.1e} of the logits' length and change {repeats.changed} of "
            f"{images} predictions")
    if failed:
        text += "; attack it with gradients averaged over draws (eot): the other lines did not"
    return failed, text, dict(difference=repeats.difference, changed_predictions=repeats.changed, images=images)


@_symptom
def logits_not_probabilities(logits: Float[np.ndarray, "n classes"]) -> Found:
    """Fails if the network's outputs are probabilities: a softmax of them hides the gradient."""
    failed = looks_like_probabilities(logits)
    low, high, sums = float(logits.min()), float(logits.max()), logits.sum(-1)
    text = (f"outputs lie in {low:.3g} .. {high:.3g} and sum to {sums.min():.3g} .. {sums.max():.3g}"
            + ("; give the logits before the softmax" if failed else ""))
    return failed, text, dict(
        smallest=low, largest=high, smallest_sum=float(sums.min()), largest_sum=float(sums.max()))


@_symptom
def loss_rises(margins: Float32[np.ndarray, "m steps+1"]) -> Found:
    """Fails unless PGD raises the margin of the best wrong class and keeps it raised.

    The margin, because a saturated softmax would hide a change of the cross-entropy.
    """
    margins = margins[np.isfinite(margins).all(axis=1)]
    if len(margins) < FEWEST_IMAGES:
        return NOT_JUDGED, "the margins along PGD are not finite", {}
    mean = margins.mean(axis=0, dtype=np.float64)
    start, end, peak = float(mean[0]), float(mean[-1]), float(mean.max())
    up, down = int(np.sum(margins[:, -1] > margins[:, 0])), int(np.sum(margins[:, -1] < margins[:, 0]))
    rises = end > start and sign_test(up, down) <= SIGNIFICANCE
    text = (f"along PGD-{margins.shape[1] - 1} the mean margin of the best wrong class goes from {start:.3g} to "
            f"{end:.3g}, at most {peak:.3g}; it rises for {up} of {len(margins)} images and falls for {down}")
    return not rises or end < peak - LOSS_FALL * (peak - start), text, dict(
        start=start, end=end, peak=peak, rising=up, falling=down)


@_symptom
def noise_breaks_less(tally: Tally, noise: Flags, pgd: Flags) -> Found:
    """Fails if random noise breaks about as many as PGD-20."""
    ahead, behind = _only(pgd, noise)
    attacked, random = int(pgd.sum()), int(noise.sum())
    text = f"random noise of the same size breaks {random} of {tally.right} images, PGD-{STEPS} {attacked}"
    enough = max(attacked, random) >= FEWEST_IMAGES
    verdict = FAIL if enough and random >= AS_MANY * attacked else PASS
    if not enough or (verdict == PASS and sign_test(ahead, behind) > SIGNIFICANCE):
        verdict, text = NOT_JUDGED, text + ": too few to tell them apart"
    return verdict, text, dict(noise_breaks=random, pgd_breaks=attacked, attacked=tally.right)
