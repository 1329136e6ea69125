"""Means, spreads and paired differences over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation, ``sqrt(sum((x - mean)^2) / (n - 1))``, of ``n`` values;
    the deviation of one value is None."""

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """Mean of the differences of ``count`` pairs, and half the width of its confidence interval
    (None for one pair)."""

    mean: float
    margin: float | None
    count: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.margin is not None and abs(self.mean) > self.margin


def summarize(values: Sequence[float]) -> Summary | None:
    """Summary of ``values``, None of none."""
    if not len(values):
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(float(np.mean(values)), std, len(values))


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> Difference | None:
    """``first - second`` over the seeds that both have; None where there is none.

    The interval is Student's: ``mean +- t * s / sqrt(n)`` with the sample standard deviation ``s``
    of the ``n`` differences and the quantile ``t`` of n - 1 degrees of freedom (4.303 for three
    seeds and 95 %). It takes the differences as normally distributed."""
    differences = [first[seed] - second[seed] for seed in sorted(first) if seed in second]
    summary = summarize(differences)
    if summary is None:
        return None
    if summary.std is None:
        return Difference(summary.mean, None, 1)
    t = stats.t.ppf((1 + confidence) / 2, summary.count - 1)
    return Difference(summary.mean, float(t * summary.std / summary.count**0.5), summary.count)
