"""Differences between networks that share seeds and test images, with intervals for new seeds and new images."""
import dataclasses

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean over s seeds and n images, in points, and how sure it is.

    Attributes:
        mean: the estimate.
        half: half of the 95 % interval, for other seeds and other images.
        half_same_images: the same for other seeds and these images.
        by_seed: float[s], the mean over images of each.
        spreads: standard deviations of one seed's effect, of one image's, and of what is left.
    """
    mean: float
    half: float
    half_same_images: float
    by_seed: np.ndarray
    spreads: tuple[float, float, float]


def difference(one, other):
    """``one`` minus ``other``, paired by seed and image.

    A mixed model with random seeds, random images and no replicate: the variance of the mean is the mean square of
    seeds plus that of images minus the residual one, by the number of cells; degrees of freedom after Satterthwaite.
    A component that would be negative counts as zero. (Searle, Casella, McCulloch: Variance Components, 1992, ch. 4.)

    Args:
        one, other: bool[s, n], whether a network is right (under attack), the same seeds and images.

    Raises:
        ValueError: shapes that differ, or fewer than two seeds or images.
    """
    one, other = (100 * np.asarray(values, np.float64) for values in (one, other))
    if one.shape != other.shape or one.ndim != 2 or min(one.shape) < 2:
        raise ValueError(f"one and other must both be [seeds, images], at least two of each; got {one.shape} and "
                         f"{other.shape}.")
    cells = one - other
    seeds, images = cells.shape
    mean, by_seed, by_image = cells.mean(), cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - by_seed[:, None] - by_image + mean
    freedom = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    squares = np.array([images * by_seed.var() * seeds, seeds * by_image.var() * images, (rest ** 2).sum()]) / freedom
    seed_square, image_square = np.maximum(squares[:2], squares[2])
    total = seed_square + image_square - squares[2]
    if total > 0:
        parts = np.array([seed_square, image_square, squares[2]])
        half = stats.t.ppf(0.975, total ** 2 / (parts ** 2 / freedom).sum()) * np.sqrt(total / cells.size)
    else:
        half = 0.0
    same = stats.t.ppf(0.975, seeds - 1) * by_seed.std(ddof=1) / np.sqrt(seeds)
    spreads = (np.sqrt((seed_square - squares[2]) / images), np.sqrt((image_square - squares[2]) / seeds),
               np.sqrt(squares[2]))
    return Difference(float(mean), float(half), float(same), by_seed, tuple(map(float, spreads)))
