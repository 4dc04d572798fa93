"""Splitting users' sequences into what is trained on and what is held out.

All splits are spans of absolute positions in the concatenated item sequences: [start, end) to
train on, and [start, cut, end) to evaluate: history start..cut, targets cut..end.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from remi_fast.errors import DataError
from remi_fast.kernels.philox import DATA_SPLIT, random_words

SPLITS = ("users", "leave-one-out", "temporal")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Users (m,) int32 and their spans, (m, 2) to train on or (m, 3) to evaluate, int64."""

    users: npt.NDArray[np.int32]
    spans: Ints

    @property
    def num_positions(self) -> int:
        """Items to train on, or targets: the length of the spans' last part."""
        return int((self.spans[:, -1] - self.spans[:, -2]).sum())


@dataclass(frozen=True)
class Split:
    """The three parts, and how many users of each were left out for want of a history."""

    train: Spans
    valid: Spans
    test: Spans
    skipped: dict[str, int] = field(default_factory=dict)


def split_users(offsets: Ints, seed: int) -> Split:
    """80/10/10 train, validation and test users, the published protocol.

    offsets: (U+1,) int64. The users are shuffled by sorting their indices by the first 64 random
    bits of Philox(index, step 0, stream DATA_SPLIT, seed), ties by index; the first floor(0.8 U)
    train, up to floor(0.9 U) validate, the rest test.
    """
    num_users = len(offsets) - 1
    words = random_words(np.arange(num_users), 0, DATA_SPLIT, seed).astype(np.uint64)
    order = np.argsort(words[:, 1] << np.uint64(32) | words[:, 0], kind="stable")
    part = np.empty(num_users, np.uint8)
    part[order] = 2
    part[order[: num_users * 9 // 10]] = 1
    part[order[: num_users * 8 // 10]] = 0
    return split_given(offsets, part)


def split_given(offsets: Ints, part: npt.NDArray[np.uint8]) -> Split:
    """Users already assigned to a part, (U,) uint8: 0 trains, 1 validates, 2 tests.

    An evaluation user's first floor(0.8 n) items are history, the others targets.
    """
    start, end = offsets[:-1], offsets[1:]
    cut = start + (end - start) * 8 // 10
    return _split(
        (part == 0, start, end),
        (part == 1, start, cut, end),
        (part == 2, start, cut, end),
    )


def split_leave_one_out(offsets: Ints) -> Split:
    """Every user's last item is the test target, the one before it the validation target."""
    start, end = offsets[:-1], offsets[1:]
    every = np.ones(len(start), bool)
    return _split(
        (every, start, np.maximum(end - 2, start)),
        (every, start, np.maximum(end - 2, start), np.maximum(end - 1, start)),
        (every, start, np.maximum(end - 1, start), end),
    )


def split_temporal(offsets: Ints, times: npt.NDArray[np.generic]) -> Split:
    """Cut all users at the same two times: the 80 % and 90 % quantiles of the interactions.

    times: (nnz,), ascending within a user. What lies before the first cut is trained on; targets
    are the items between the cuts (validation) and from the second cut on (test), the history is
    all before them. Users without a target in a window are not in that part.
    """
    ordered = np.sort(times)
    first, second = (ordered[len(times) * tenth // 10] for tenth in (8, 9))
    start, end = offsets[:-1], offsets[1:]
    cuts = []
    for time in (first, second):
        earlier = np.concatenate(([0], np.cumsum(times < time, dtype=np.int64)))
        cuts.append(start + earlier[end] - earlier[start])
    cut1, cut2 = cuts
    return _split(
        (np.ones(len(start), bool), start, cut1),
        (cut2 > cut1, start, cut1, cut2),
        (end > cut2, start, cut2, end),
    )


def _split(*parts: tuple[npt.NDArray[Any], ...]) -> Split:
    """Each part is (mask of its users, start, [cut,] end); empty histories are left out."""
    made, skipped = {}, {}
    for name, (mask, *bounds) in zip(("train", "valid", "test"), parts, strict=True):
        usable = mask & (bounds[1] > bounds[0])
        users = np.flatnonzero(usable).astype(np.int32)
        made[name] = Spans(users, np.stack([b[users] for b in bounds], axis=1).astype(np.int64))
        skipped[name] = int(mask.sum()) - len(users)
    if not len(made["train"].users):
        raise DataError(
            f"the split leaves no user to train on, out of {len(parts[0][0])}; "
            "expected more users, longer histories or another split"
        )
    return Split(**made, skipped=skipped)
