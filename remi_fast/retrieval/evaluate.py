"""Metrics of a model on the held-out users of a dataset, over the whole catalogue."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from remi_fast.data.dataset import Dataset, EvalSplit
from remi_fast.errors import DataError
from remi_fast.kernels.interest_search import TopK
from remi_fast.retrieval.diversity import candidates_for
from remi_fast.retrieval.histories import even_sample, last_items, padded, user_blocks
from remi_fast.retrieval.metrics import Ints, ranking_metrics
from remi_fast.retrieval.search import ItemVectors, search

DEFAULT_KS = (20, 50)
USERS_AT_ONCE = 1024


class RetrievalModel(ItemVectors, Protocol):
    """Item vectors, and the interests of users to find them by."""

    max_history: int

    def interests(self, history: Tensor, length: Tensor) -> Tensor:
        """history (n, L) int64, right-padded with 0; length (n,) -> (n, K, d)."""


class Block(NamedTuple):
    """Some held-out users, what was found for them, and what they went on to."""

    spans: npt.NDArray[np.int64]  # (n, 3) int64, as in EvalSplit
    found: TopK
    targets: Ints  # of user u: targets[offsets[u]:offsets[u + 1]]
    offsets: Ints  # (n + 1,)


def held_out_users(dataset: Dataset, split: str) -> EvalSplit:
    """Whom to evaluate on. Raises DataError if the split has no users."""
    users = dataset.eval_split(split)
    if not len(users):
        raise DataError(
            f"the {split} split has no users, expected at least one; "
            "prepare more data, or with another --split"
        )
    return users


def evaluate(
    model: RetrievalModel,
    dataset: Dataset,
    split: str,
    *,
    ks: tuple[int, ...] = DEFAULT_KS,
    max_users: int | None = None,
    exclude_seen: bool = False,
) -> dict[str, float]:
    """Mean recall, hit_rate and ndcg at each k, and the number of "users" they are means over.

    Args:
        model: such as a MultiInterestModel.
        dataset, split: whose users, "valid" or "test".
        ks: cut-offs; one above the number of items counts all of them.
        max_users: evaluate an evenly spaced sample of the users only.
        exclude_seen: never retrieve the items of the user's whole history (as published: False).

    Raises:
        DataError: if the split has no users.
    """
    sums: dict[str, float] = {}
    users = 0
    for block in blocks(
        model, dataset, split, max(ks), max_users=max_users, exclude_seen=exclude_seen
    ):
        ranked = block.found.ids.numpy()
        users += len(ranked)
        for name, values in ranking_metrics(ranked, block.targets, block.offsets, ks).items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    return {name: total / users for name, total in sums.items()} | {"users": users}


def blocks(
    model: RetrievalModel,
    dataset: Dataset,
    split: str,
    k: int,
    *,
    max_users: int | None = None,
    exclude_seen: bool = False,
    per_interest: bool = False,
) -> Iterator[Block]:
    """The held-out users with the k best items of each, or all there are, so many users at a time.

    per_interest: k for each of the user's interests, the candidates of a choice among them.
    Other arguments and errors as in `evaluate`.
    """
    held_out = held_out_users(dataset, split)
    most = len(held_out) if max_users is None else max_users
    every = held_out.spans[even_sample(len(held_out), most)]
    for block in user_blocks(every[:, 0], every[:, 1], USERS_AT_ONCE):
        spans = every[block]
        start, cut, end = spans.T
        history, length = last_items(dataset.items, start, cut, model.max_history)
        interests = model.interests(torch.from_numpy(history), torch.from_numpy(length))
        seen = torch.from_numpy(padded(dataset.items, start, cut)) if exclude_seen else None
        size = candidates_for(k, interests.shape[1] if per_interest else 1, model.num_items)
        found = search(interests, model, size, seen)
        offsets = np.concatenate([[0], np.cumsum(end - cut)])
        position = np.arange(offsets[-1]) + np.repeat(cut - offsets[:-1], end - cut)
        yield Block(spans, found, dataset.items[position].astype(np.int64), offsets)
