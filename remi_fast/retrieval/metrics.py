"""Recall, hit rate and NDCG of ranked lists against sets of targets."""

import numpy as np
import numpy.typing as npt

NAMES = ("recall", "hit_rate", "ndcg")

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
