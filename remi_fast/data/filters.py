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


@dataclass(frozen=True)
class Filtered:
    """What a filter kept: interactions (m,), and the items of the catalogue, (num_items,) bool."""

    users: Codes
    items: Codes
    positions: npt.NDArray[np.int64]  # of the kept interactions in the input
    catalogue: npt.NDArray[np.bool_]
    steps: list[Step]


def apply_filter(
    users: Codes, items: Codes, name: str, *, min_item: int, min_user: int
) -> Filtered:
    """Keep the interactions of items and users that have enough of them.

    users, items: (n,) int32 codes. "one-pass" (the published protocol) keeps items with at least
    `min_item` interactions counted over the raw data, then users with at least `min_user` left;
    "k-core" repeats both until nothing changes; "none" keeps everything.

    As published, the catalogue is what the item filter kept: under "one-pass" it may hold a few
    items whose users have all been dropped.

    Raises DataError with the counts of every step when nothing is left.
    """
    kept = np.arange(len(users))
    steps = [Step("raw", _distinct(users), _distinct(items), len(users), 0)]
    catalogue = np.bincount(items) > 0
    while name != "none":
        before = len(kept)
        catalogue = np.bincount(items, minlength=len(catalogue)) >= min_item
        for kind, minimum in (("items", min_item), ("users", min_user)):
            mask = catalogue[items] if kind == "items" else _often(users, min_user)
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
            "expected some to be left: lower --min-item or --min-user, or use --filter none"
        )
    return Filtered(users, items, kept, catalogue, steps)


def _often(codes: Codes, minimum: int) -> npt.NDArray[np.bool_]:
    """Of each interaction, whether its code occurs at least `minimum` times."""
    enough = np.bincount(codes) >= minimum
    often: npt.NDArray[np.bool_] = enough[codes] if len(codes) else np.zeros(0, bool)
    return often


def _distinct(codes: Codes) -> int:
    return int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0
