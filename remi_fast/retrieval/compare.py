"""Comparison of two models on the same users: the paired bootstrap.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993: percentile intervals.
"""

from typing import NamedTuple

import numpy as np

from remi_fast.errors import DataError
from remi_fast.kernels.philox import RESAMPLING, random_words
from remi_fast.retrieval.metrics import Floats

RESAMPLES = 10_000
CONFIDENCE = 0.95


class Difference(NamedTuple):
    """A metric of two models, and what the difference of the first less the second comes to."""

    first: float
    second: float
    difference: float
    low: float  # the 95 % confidence interval
    high: float
    p: float  # two-sided; 1 where all users are equal


def compare(
    first: dict[str, Floats],
    second: dict[str, Floats],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """The difference of the means of each metric, with its uncertainty over the users.

    Args:
        first, second: values of the users by metric, (n,) float64, in the same order of users.
        resamples: of the users, with replacement, >= 1.
        seed: of the draws, which are a pure function of it.

    Raises:
        DataError: the metrics or the numbers of users differ. ValueError: resamples < 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples: got {resamples}, expected at least 1")
    shapes = [{name: len(values) for name, values in each.items()} for each in (first, second)]
    if shapes[0] != shapes[1] or not all(shapes[0].values()):
        raise DataError(
            f"comparison: got users by metric {shapes[0]} and {shapes[1]}, "
            "expected the same of both, at least one user"
        )
    pairs = np.stack([first[name] - second[name] for name in first], axis=1)
    means = _resampled_means(pairs, resamples, seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    # One more on either side, so that p is never below what so many resamples can show.
    below, above = ((side.sum(0) + 1) / (resamples + 1) for side in (means <= 0, means >= 0))
    p = np.minimum(1, 2 * np.minimum(below, above))
    return {
        name: Difference(
            float(first[name].mean()),
            float(second[name].mean()),
            float(pairs[:, column].mean()),
            float(low[column]),
            float(high[column]),
            float(p[column]),
        )
        for column, name in enumerate(first)
    }


def _resampled_means(values: Floats, resamples: int, seed: int) -> Floats:
    """Means of `values` (n, m) over n users drawn with replacement: (resamples, m)."""
    users = len(values)
    index = np.arange(-(-users // 4))
    means = np.empty((resamples, values.shape[1]))
    for resample in range(resamples):
        words = random_words(index, resample, RESAMPLING, seed).reshape(-1)[:users]
        # In [0, n), each as likely as another but for n / 2^32.
        drawn = (words.astype(np.uint64) * np.uint64(users)) >> np.uint64(32)
        counts = np.bincount(drawn.astype(np.int64), minlength=users).astype(np.float64)
        means[resample] = counts @ values / users
    return means
