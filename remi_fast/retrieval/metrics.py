"""Recall, hit rate and NDCG of ranked lists against sets of targets; diversity, coverage, Gini and
novelty of the lists alone."""

import numpy as np
import numpy.typing as npt

NAMES = ("recall", "hit_rate", "ndcg")
SELECTION_METRIC = "recall@50"  # of the validation: decides on the best checkpoint, as published

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def relevance(ranked: Ints, targets: Ints, offsets: Ints) -> npt.NDArray[np.bool_]:
    """Which ranked items are targets.

    ranked: (n, M) distinct ids, 0 = none; user u has targets[offsets[u]:offsets[u + 1]].
    Returns (n, M).
    """
    users = len(offsets) - 1
    base = max(int(ranked.max(initial=0)), int(targets.max(initial=0))) + 1
    owner = np.repeat(np.arange(users), np.diff(offsets))
    pairs = np.arange(users)[:, None] * base + ranked
    found: npt.NDArray[np.bool_] = np.isin(pairs, owner * base + targets) & (ranked > 0)
    return found


def ranking_metrics(
    ranked: Ints, targets: Ints, offsets: Ints, ks: tuple[int, ...]
) -> dict[str, Floats]:
    """Metrics of every user, (n,) float64 by name ("recall@20", ...).

    With h hits among the first k of the ranking and t targets (at least one):
    recall = h / t, as published, where a target that occurs twice counts twice in t;
    hit_rate = 1 if h > 0; ndcg = DCG / ideal DCG, DCG = sum over hits of 1 / log2(rank + 1),
    the ideal one with min(distinct targets, k) hits on top.

    Arguments as in `relevance`, with M >= max(ks), or all items there are.
    """
    hits = relevance(ranked, targets, offsets)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs = np.unique(np.stack([owner, targets]), axis=1)
    distinct = np.bincount(pairs[0], minlength=len(offsets) - 1)
    most = ranked.shape[1]
    gains = 1 / np.log2(np.arange(2, most + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])
    result: dict[str, Floats] = {}
    for name in NAMES:
        for k in ks:
            top = hits[:, :k]
            if name == "recall":
                value = top.sum(1) / np.diff(offsets)
            elif name == "hit_rate":
                value = top.any(1).astype(np.float64)
            else:
                value = top @ gains[:k] / ideal[np.minimum(distinct, min(k, most))]
            result[f"{name}@{k}"] = value
    return result


def diversity(categories: Ints, ranked: Ints, ks: tuple[int, ...]) -> dict[str, Floats]:
    """Share of the pairs of each user's first k items that differ in category, (n,) float64 by
    name ("diversity@20", ...); 0 of a list without pairs.

    categories: (I,) of the items; ranked: (n, M) ids, 0 = none, which is in no pair.
    """
    nobodys = np.iinfo(np.int64).min + np.arange(ranked.shape[1])  # each a category of its own
    kinds = np.where(ranked > 0, categories[ranked], nobodys)
    result: dict[str, Floats] = {}
    for k in ks:
        top = np.sort(kinds[:, :k], axis=1)
        place = np.arange(top.shape[1])
        begins = np.ones(top.shape, bool)
        begins[:, 1:] = top[:, 1:] != top[:, :-1]
        first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
        alike = (place - first).sum(1)  # of a run of m: 0 + 1 + ... + (m - 1) pairs
        size = (ranked[:, :k] > 0).sum(1)
        pairs = size * (size - 1) // 2
        result[f"diversity@{k}"] = np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), 0.0)
    return result


def gini(counts: Ints) -> float:
    """Gini coefficient of counts (n,): 0 if all are equal, (n - 1) / n if one has everything."""
    ordered = np.sort(counts).astype(np.float64)
    n, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * total))


def self_information(training_counts: npt.ArrayLike) -> Floats:
    """-log2 of the share of training interactions that each item is: (I,) counts -> (I,) float64.

    An item without any counts as one with one: that of none would be infinite.
    """
    counts = np.asarray(training_counts, dtype=np.float64)
    information: Floats = -np.log2(np.maximum(counts, 1) / max(counts.sum(), 1))
    return information


class ListCounts:
    """How often each item is among the first k of anyone's list, for coverage, Gini, novelty."""

    def __init__(self, ks: tuple[int, ...], num_items: int) -> None:
        """num_items: I, with the padding row 0, which is not counted."""
        self.counts = {k: np.zeros(num_items, np.int64) for k in ks}

    def add(self, ranked: Ints) -> None:
        """Count the lists of some users: (n, M) ids, 0 = none."""
        for k, counts in self.counts.items():
            counts += np.bincount(ranked[:, :k].ravel(), minlength=len(counts))
            counts[0] = 0

    def metrics(self, information: Floats) -> dict[str, float]:
        """Of all lists added, by name:

        coverage@k: share of the catalogue that is in someone's list; gini@k: of how often each item
        of the catalogue is; novelty@k: mean `information` (I,) of the items in the lists.
        """
        result: dict[str, float] = {}
        for k, counts in self.counts.items():
            result[f"coverage@{k}"] = float((counts[1:] > 0).mean())
        for k, counts in self.counts.items():
            result[f"gini@{k}"] = gini(counts[1:])
        for k, counts in self.counts.items():
            result[f"novelty@{k}"] = float(counts @ information / max(counts.sum(), 1))
        return result
