"""Exact top-k search over the whole catalogue, merged over the interests of a user.

A user's score of an item is the largest of the K inner products, which ranks exactly as the
published procedure does (each interest retrieves its top k, the union is sorted and duplicates
dropped): whatever is in the merged top k is in the top k of the interest that scores it highest.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from remi_fast.kernels.interest_search import TopK, in_order, interest_search

VALUES_AT_ONCE = 4 << 20  # of item vectors, read at a time: 16 MiB
MARGIN = 16  # items beyond k that are scored again
_SETTLED_AT_ONCE = 1024  # users


class ItemVectors(Protocol):
    """Where item vectors come from: a model, or any other table."""

    @property
    def num_items(self) -> int:
        """I, with the padding row 0, which is never retrieved."""

    def rows(self, start: int, end: int) -> Tensor:
        """Vectors of the rows start..end (cut off at I): (rows, d)."""

    def read(self, ids: Tensor) -> Tensor:
        """Vectors of the rows `ids` (n,) int64: (n, d)."""


class Subset:
    """Some items of a catalogue as one of their own: row i + 1 is the item ids[i]."""

    def __init__(self, items: ItemVectors, ids: Tensor) -> None:
        """ids: (m,) int64, distinct, ascending, without 0."""
        self._items = items
        self.ids = torch.nn.functional.pad(ids, (1, 0))

    @property
    def num_items(self) -> int:
        """m + 1, with the padding row."""
        return len(self.ids)

    def rows(self, start: int, end: int) -> Tensor:
        """Vectors of the rows start..end: (rows, d)."""
        return self._items.read(self.ids[start:end])

    def read(self, ids: Tensor) -> Tensor:
        """Vectors of the rows `ids` (n,) int64: (n, d)."""
        return self._items.read(self.ids[ids])

    def positions(self, ids: Tensor) -> Tensor:
        """Where ids of the catalogue (any shape) are in the subset, 0 where they are not."""
        position = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        return torch.where(self.ids[position] == ids, position, 0)


def search(interests: Tensor, items: ItemVectors, k: int, seen: Tensor | None = None) -> TopK:
    """The k best items of each user: a result on the CPU.

    Args:
        interests: (n, K, d) float32; the search is on their device.
        items: the catalogue, on any device.
        k: how many.
        seen: (n, s) int64 ids never to retrieve, padded with 0; None excludes nothing.

    On a GPU some more than k are found, and `settled`. Memory is bounded by `VALUES_AT_ONCE` and
    n k, there also by `kernels.interest_search.SCORES_AT_ONCE`, not by the catalogue.
    """
    device = interests.device
    pieces = _pieces(items, interests.shape[2], device)
    if device.type == "cpu":
        return interest_search(interests, pieces, k, seen=seen)
    if seen is not None:
        seen = seen.to(device)
    found = interest_search(interests, pieces, k + MARGIN, seen=seen)
    return TopK(*(x.cpu() for x in settled(found, interests, items, k)))


def settled(found: TopK, interests: Tensor, items: ItemVectors, k: int) -> TopK:
    """The k best of what was found, scored again in float64, where float32 sees near-ties.

    What another way to multiply found, with some more than k, becomes the same then. `found` is on
    the device of the interests (n, K, d), which a result is, too; its scores are float32.
    """
    parts = zip(found.ids.split(_SETTLED_AT_ONCE), interests.split(_SETTLED_AT_ONCE), strict=True)
    scored = [_scored(ids, vectors, items) for ids, vectors in parts]
    best = in_order(TopK(*(torch.cat(x) for x in zip(*scored, strict=True))))
    ids, scores, interest = (x[:, :k] for x in best)
    none = scores == -torch.inf
    return TopK(ids.masked_fill(none, 0), scores.float(), interest.masked_fill(none, 0))


def _scored(ids: Tensor, interests: Tensor, items: ItemVectors) -> TopK:
    """These items (n, m), with their scores in float64."""
    rows = items.read(ids.flatten()).double().view(*ids.shape, -1)
    scores, interest = torch.einsum("nkd,nhd->nhk", rows, interests.double()).max(dim=1)
    return TopK(ids, scores.masked_fill((ids == 0) | scores.isnan(), -torch.inf), interest)


def _pieces(items: ItemVectors, dim: int, device: torch.device) -> Iterator[Tensor]:
    size = max(1, VALUES_AT_ONCE // dim)
    for start in range(1, items.num_items, size):
        yield items.rows(start, start + size).to(device)
