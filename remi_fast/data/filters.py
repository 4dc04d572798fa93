"""Dropping rare items and users, on codes: every interaction has a user code and an item code."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from remi_fast.errors import DataError

FILTERS = ("one-pass", "k-core", "none")

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Step:
    """What one filter step left over; the first step of a list is the raw data."""

    name: str
    users: int
    items: int
    interactions: int
    dropped: int  # interactions

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def apply_filter(
    users: Codes, items: Codes, name: str, *, min_item: int, min_user: int
) -> tuple[Codes, Codes, npt.NDArray[np.int64], list[Step]]:
    """Keep the interactions of items and users that have enough of them.

    users, items: (n,) int32 codes. "one-pass" (the published protocol) keeps items with at least
    `min_item` interactions counted over the raw data, then users with at least `min_user` left;
    "k-core" repeats both until nothing changes; "none" keeps everything.

    Returns the kept users and items (m,), their positions in the input (m,) int64, and the steps.
    Raises DataError with the counts of every step when nothing is left.
    """
    kept = np.arange(len(users))
    steps = [Step("raw", _distinct(users), _distinct(items), len(users), 0)]
    rules = (("items", min_item), ("users", min_user)) if name != "none" else ()
    while True:
        before = len(kept)
        for kind, minimum in rules:
            codes = items if kind == "items" else users
            mask = (np.bincount(codes) >= minimum)[codes] if len(codes) else np.zeros(0, bool)
            users, items, kept = users[mask], items[mask], kept[mask]
            steps.append(
                Step(
                    f"{kind} with >= {minimum} interactions",
                    _distinct(users),
                    _distinct(items),
                    len(users),
                    steps[-1].interactions - len(users),
                )
            )
        if name != "k-core" or len(kept) == before:
            break
    if not len(kept):
        counts = "; ".join(
            f"{s.name}: {s.users} users, {s.items} items, {s.interactions} interactions"
            for s in steps
        )
        raise DataError(
            f"the filter {name!r} drops every interaction ({counts}); "
            "lower min_item or min_user, or use the filter 'none'"
        )
    return users, items, kept, steps


def _distinct(codes: Codes) -> int:
    return int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0
