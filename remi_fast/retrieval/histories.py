"""Histories as a model takes them: the most recent items, padded."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ITEMS_AT_ONCE = 1 << 24  # of whole histories: 128 MiB


def even_sample(count: int, most: int) -> Ints:
    """`most` of the positions 0..count-1, evenly spaced, both ends among them; all if no more."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def last_items(
    items: npt.NDArray[np.integer], start: Ints, end: Ints, max_history: int
) -> tuple[Ints, Ints]:
    """The last `max_history` of items[start[u]:end[u]], oldest first, right-padded with 0.

    items (nnz,), start and end (n,), end > start -> history (n, L) int64, length (n,) int64.
    """
    first = np.maximum(start, end - max_history)
    position = first[:, None] + np.arange(max_history)
    inside = position < end[:, None]
    history = np.where(inside, items[np.where(inside, position, 0)], 0).astype(np.int64)
    return history, end - first


def padded(items: npt.NDArray[np.integer], start: Ints, end: Ints) -> Ints:
    """All of items[start[u]:end[u]], right-padded with 0 to the longest: (n, s) int64."""
    return last_items(items, start, end, int((end - start).max(initial=1)))[0]


def user_blocks(start: Ints, end: Ints, most: int) -> Iterator[slice]:
    """Users in order, at most so many at a time, and fewer where their `padded` histories, as the
    longest of them has it, would be more than ITEMS_AT_ONCE. start and end (n,)."""
    first = 0
    while first < len(start):
        size = most
        while size > 1 and size * int((end - start)[first : first + size].max()) > ITEMS_AT_ONCE:
            size //= 2
        yield slice(first, first + size)
        first += size
