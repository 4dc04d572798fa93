"""Exact top-k search over the whole catalogue, merged over the interests of a user.

A user's score of an item is the largest of the K inner products, which ranks exactly as the
published procedure does (each interest retrieves its top k, the union is sorted and duplicates
dropped): whatever is in the merged top k is in the top k of the interest that scores it highest.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Interest-item scores, and values of item vectors, held at a time: 32 MiB each, for any catalogue.
SCORES_AT_ONCE = 8 << 20


class ItemVectors(Protocol):
    """Where item vectors come from: a model, or any other table."""

    @property
    def num_items(self) -> int:
        """I, with the padding row 0, which is never retrieved."""

    def rows(self, start: int, end: int) -> Tensor:
        """Vectors of the rows start..end (cut off at I): (rows, d)."""

    def read(self, ids: Tensor) -> Tensor:
        """Vectors of the rows `ids` (n,) int64: (n, d)."""


class TopK(NamedTuple):
    """Retrieved items, best first, equal scores by smaller id; id 0 fills up where none is left."""

    ids: Tensor  # (n, k) int64
    scores: Tensor  # (n, k), -inf where id is 0
    interest: Tensor  # (n, k) int64, the interest that retrieved the item


def search(interests: Tensor, items: ItemVectors, k: int, seen: Tensor | None = None) -> TopK:
    """The k best items of each user.

    Args:
        interests: (n, K, d).
        items: the catalogue.
        k: how many.
        seen: (n, s) int64 ids never to retrieve, padded with 0; None excludes nothing.

    Memory is bounded by `SCORES_AT_ONCE` and n k, not by the catalogue.
    """
    users, num_interests, dim = interests.shape
    flat = interests.reshape(-1, dim)
    best_scores = interests.new_full((users, k), -torch.inf)
    best_ids = torch.zeros(users, k, dtype=torch.int64)
    chunk = max(k, SCORES_AT_ONCE // max(dim, len(flat)))
    for start in range(1, items.num_items, chunk):
        rows = items.rows(start, start + chunk)
        scores = (flat @ rows.T).view(users, num_interests, len(rows)).amax(1)
        if seen is not None:
            _exclude(scores, seen - start)
        candidates, columns = _better(scores, best_scores[:, -1:])
        # The best so far come first: their ids are smaller, so they win ties.
        best_scores, index = stable_top_k(torch.cat([best_scores, candidates], 1), k)
        best_ids = torch.cat([best_ids, columns + start], 1).gather(1, index)
    best_ids[best_scores == -torch.inf] = 0
    return TopK(best_ids, best_scores, _interest_of(interests, items, best_ids))


def stable_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k (or all, if fewer) largest of each row; ties by smaller index."""
    width = scores.shape[1]
    if width <= k:
        values, index = scores.sort(dim=1, descending=True, stable=True)
        return values, index
    values, index = scores.topk(k + 1, dim=1, sorted=True)
    tied = (values[:, k - 1] == values[:, k]).nonzero().flatten()  # which were left out is chance
    if len(tied):
        all_values, all_index = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], index[tied] = all_values[:, : k + 1], all_index[:, : k + 1]
    values, index = values[:, :k], index[:, :k]
    order = index.argsort(dim=1)
    values, index = values.gather(1, order), index.gather(1, order)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, index.gather(1, order)


def _better(scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Scores above each row's threshold, in order of their columns, and these: (n, most of a row).

    Rows with fewer are filled up with -inf. After the first chunks few scores get this far.
    """
    row, column = (scores > threshold).nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(scores))
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    width = int(counts.max()) if len(counts) else 0
    better = scores.new_full((len(scores), width), -torch.inf)
    columns = torch.zeros(len(scores), width, dtype=torch.int64)
    better[row, place], columns[row, place] = scores[row, column], column
    return better, columns


def _exclude(scores: Tensor, columns: Tensor) -> None:
    inside = (columns >= 0) & (columns < scores.shape[1])
    row, place = inside.nonzero(as_tuple=True)
    scores[row, columns[row, place]] = -torch.inf


def _interest_of(interests: Tensor, items: ItemVectors, ids: Tensor) -> Tensor:
    """The interest with the largest inner product with each id: (n, k)."""
    distinct, inverse = torch.unique(ids, return_inverse=True)
    vectors = items.read(distinct)[inverse]
    return torch.einsum("nhd,nkd->nkh", interests, vectors).argmax(2)
