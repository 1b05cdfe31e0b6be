"""Means over seeds with their confidence intervals."""
import dataclasses
import math
import statistics

from scipy import stats

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """
    Attributes:
        mean: over seeds.
        half: half of the 95 % confidence interval of the mean (Student's t over seeds); None of a single seed.
        count: seeds.
    """
    mean: float
    half: float | None
    count: int

    @property
    def beyond_chance(self):
        """Whether the interval leaves zero out; False of a single seed, which tells nothing of chance."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values):
    """:class:`Estimate` of a list of numbers, one a seed; None of no numbers."""
    if not values:
        return None
    count = len(values)
    half = None
    if count > 1:
        quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1))
        half = quantile * statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), half, count)


def paired_difference(values, others):
    """:class:`Estimate` of values - others over the seeds that both have; None where they share none.

    Args:
        values, others: {seed: number}.
    """
    return estimate([values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())])
