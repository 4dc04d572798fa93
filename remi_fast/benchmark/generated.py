"""Generated interactions of any size for the benchmarks: long-tailed items, short histories."""

import numpy as np
import numpy.typing as npt

from remi_fast.kernels.philox import BENCHMARK, bounded, random_words

SEED = 1


def sequences(
    num_users: int, num_items: int, mean_length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """items (nnz,) int32 in 1..num_items-1, log-uniform; offsets (U + 1,) int64.

    Lengths are uniform in [mean / 2, 3 mean / 2], at least 5.
    """
    low = max(5, mean_length // 2)
    lengths = low + bounded(
        random_words(np.arange(num_users), 0, BENCHMARK, SEED), 2 * (mean_length - low) + 1
    )
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    unit = bounded(random_words(np.arange(offsets[-1]), 1, BENCHMARK, SEED), 2**31) / 2**31
    ranks = np.exp(unit * np.log(float(num_items - 1)))
    return np.minimum(ranks, num_items - 1).astype(np.int32), offsets


def spans(offsets: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Every user with all of its items, as BatchLoader takes them."""
    users = np.arange(len(offsets) - 1, dtype=np.int32)
    return users, np.stack([offsets[:-1], offsets[1:]], axis=1)
