"""More about a model than three means: users and items in groups, the lists themselves, and what
diversity costs in recall. All of it in one pass over the users."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from remi_fast.data.dataset import Dataset
from remi_fast.retrieval.categories import Categories
from remi_fast.retrieval.diversity import check_coefficient, diversify
from remi_fast.retrieval.evaluate import DEFAULT_KS, Block, RetrievalModel, blocks, held_out_users
from remi_fast.retrieval.metrics import (
    Floats,
    Ints,
    ListCounts,
    diversity,
    ranking_metrics,
    self_information,
)

Masks = npt.NDArray[np.bool_]
HistoryGroups = Callable[[Ints], Iterator[tuple[str, Masks]]]


def per_user(
    model: RetrievalModel,
    dataset: Dataset,
    split: str,
    *,
    ks: tuple[int, ...] = DEFAULT_KS,
    exclude_seen: bool = False,
) -> dict[str, Floats]:
    """recall, hit_rate and ndcg at each k of every user of the split, (n,) float64 by name.

    Arguments and errors as in `evaluate`; the users are in the order of the split.
    """
    parts = [
        ranking_metrics(block.found.ids.numpy(), block.targets, block.offsets, ks)
        for block in blocks(model, dataset, split, max(ks), exclude_seen=exclude_seen)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Means:
    """Means of metrics over users who come in parts."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.users = 0

    def add(self, values: dict[str, Floats]) -> None:
        """Values of some users, (n,) by name; of none, nothing changes."""
        count = len(next(iter(values.values())))
        self.users += count
        for name, each in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(each.sum())

    def metrics(self) -> dict[str, float]:
        """The means, and the number of "users"."""
        return {n: total / self.users for n, total in self.sums.items()} | {"users": self.users}


def evaluate_in_detail(
    model: RetrievalModel,
    dataset: Dataset,
    split: str,
    *,
    training_counts: npt.ArrayLike,
    categories: Categories | None = None,
    coefficients: Sequence[float] = (),
    ks: tuple[int, ...] = DEFAULT_KS,
    exclude_seen: bool = False,
) -> dict[str, Any]:
    """The metrics of `evaluate`, and more; see docs/evaluation.md for the formulas.

    Args:
        model, dataset, split, ks, exclude_seen: as in `evaluate`.
        training_counts: (I,), how often each item occurs in training.
        categories: (I,) int64 of the items, for diversity.
        coefficients: of diversity, each 0 to 1e30; needs categories.

    Returns:
        "metrics": those of `evaluate`, then coverage, gini, novelty and, with categories, diversity
        at each k; "groups": of "history" (length) and "popularity" (of targets), metrics by name
        of the group; "diversity": for each coefficient, in order, {"coefficient": c, metrics}.

    Raises:
        ValueError: a coefficient out of range, or without categories. DataError: no users.
    """
    sweep = _DiversitySweep(coefficients, categories, ks)
    counts = np.asarray(training_counts)
    plain, lists = Means(), ListCounts(ks, model.num_items)
    groups = _Groups(history_groups(dataset, split), popularity_groups(counts), ks)
    options = {"exclude_seen": exclude_seen, "per_interest": bool(coefficients)}
    for block in blocks(model, dataset, split, max(ks), **options):
        ranked = block.found.ids[:, : max(ks)].numpy()
        values = ranking_metrics(ranked, block.targets, block.offsets, ks)
        lists.add(ranked)
        groups.add(block, ranked, values)
        if categories is not None:
            values |= diversity(categories, ranked, ks)
        plain.add(values)
        sweep.add(block)
    metrics = plain.metrics()
    users = metrics.pop("users")
    return {
        "metrics": metrics | lists.metrics(self_information(counts)) | {"users": users},
        "groups": groups.metrics(),
        "diversity": sweep.metrics(),
    }


def history_groups(dataset: Dataset, split: str) -> HistoryGroups:
    """Users in four groups of about the same size, by the length of their history.

    Returns what gives, of spans (n, 3), names such as "5 to 8 items" with a mask (n,) each. Users
    of equal length are in one group: there are fewer groups where many are.
    """
    start, cut, _ = held_out_users(dataset, split).spans.T
    lengths = cut - start
    tops = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75, 1], method="inverted_cdf"))
    bottoms = [int(lengths.min()), *(int(top) + 1 for top in tops[:-1])]

    def groups(spans: Ints) -> Iterator[tuple[str, Masks]]:
        length = spans[:, 1] - spans[:, 0]
        for bottom, top in zip(bottoms, tops, strict=True):
            name = f"{bottom} to {top} items" if bottom < top else f"{top} items"
            yield name, (bottom <= length) & (length <= top)

    return groups


def popularity_groups(training_counts: npt.NDArray[Any]) -> dict[str, Masks]:
    """Items in head, mid and tail, (I,) bool each: by falling counts, each about a third of the
    training interactions. Items without any are in the tail; the padding row 0 is in none."""
    counts = training_counts[1:].astype(np.int64)
    order = np.argsort(-counts, kind="stable")
    third = np.empty(len(counts), np.int64)
    before = np.cumsum(counts[order]) - counts[order]  # interactions with more popular items
    third[order] = np.minimum(3 * before // max(counts.sum(), 1), 2)
    third[counts == 0] = 2
    third = np.concatenate([[-1], third])
    return {name: third == place for place, name in enumerate(("head", "mid", "tail"))}


class _Groups:
    """Means over the users, and over the targets, of each group."""

    def __init__(self, history: HistoryGroups, popularity: dict[str, Masks], ks: tuple[int, ...]):
        self.history, self.popularity, self.ks = history, popularity, ks
        self.means: dict[str, dict[str, Means]] = {"history": {}, "popularity": {}}

    def add(self, block: Block, ranked: Ints, values: dict[str, Floats]) -> None:
        """Users with their lists (n, M), and the metrics of these."""
        for name, users in self.history(block.spans):
            means = self.means["history"].setdefault(name, Means())
            means.add({metric: each[users] for metric, each in values.items()})
        for name, members in self.popularity.items():
            means = self.means["popularity"].setdefault(name, Means())
            means.add(_of_targets(ranked, block, members, self.ks))

    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """By kind and name of the group; without groups of nobody."""
        return {
            kind: {name: means.metrics() for name, means in groups.items() if means.users}
            for kind, groups in self.means.items()
        }


def _of_targets(
    ranked: Ints, block: Block, members: Masks, ks: tuple[int, ...]
) -> dict[str, Floats]:
    """Metrics as if these items alone were targets, of the users who have such a target."""
    wanted = members[block.targets]
    owner = np.repeat(np.arange(len(ranked)), np.diff(block.offsets))[wanted]
    number = np.bincount(owner, minlength=len(ranked))
    offsets = np.concatenate([[0], np.cumsum(number[number > 0])])
    return ranking_metrics(ranked[number > 0], block.targets[wanted], offsets, ks)


class _DiversitySweep:
    """Means over the users at each coefficient of diversity."""

    def __init__(
        self, coefficients: Sequence[float], categories: Categories | None, ks: tuple[int, ...]
    ) -> None:
        for value in coefficients:
            check_coefficient(value)
        if coefficients and categories is None:
            raise ValueError("categories: got None, expected (I,) where there are coefficients")
        self.categories, self.ks = categories, ks
        self.means = [(coefficient, Means()) for coefficient in coefficients]

    def add(self, block: Block) -> None:
        """Users with their candidates."""
        for coefficient, means in self.means:
            assert self.categories is not None
            means.add(_diversified(block, self.categories, self.ks, coefficient))

    def metrics(self) -> list[dict[str, float]]:
        """For each coefficient, in order."""
        return [{"coefficient": value, **means.metrics()} for value, means in self.means]


def _diversified(
    block: Block, categories: Categories, ks: tuple[int, ...], coefficient: float
) -> dict[str, Floats]:
    """Metrics of the lists that a coefficient of diversity chooses from the candidates."""
    ids = block.found.ids
    k = min(max(ks), ids.shape[1])
    kinds = torch.from_numpy(categories)[ids]
    chosen = diversify(block.found.scores, kinds, k, coefficient)
    ranked = ids.gather(1, chosen).numpy()
    values = ranking_metrics(ranked, block.targets, block.offsets, ks)
    return values | diversity(categories, ranked, ks)
