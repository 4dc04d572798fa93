"""Exact top-k search over the whole catalogue, merged over the interests of a user.

A user's score of an item is the largest of the K inner products, which ranks exactly as the
published procedure does (each interest retrieves its top k, the union is sorted and duplicates
dropped): whatever is in the merged top k is in the top k of the interest that scores it highest.
"""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from remi_fast.kernels.interest_search import TopK, interest_search

VALUES_AT_ONCE = 4 << 20  # of item vectors, read at a time: 16 MiB


class ItemVectors(Protocol):
    """Where item vectors come from: a model, or any other table."""

    @property
    def num_items(self) -> int:
        """I, with the padding row 0, which is never retrieved."""

    def rows(self, start: int, end: int) -> Tensor:
        """Vectors of the rows start..end (cut off at I): (rows, d)."""


def search(interests: Tensor, items: ItemVectors, k: int, seen: Tensor | None = None) -> TopK:
    """The k best items of each user.

    Args:
        interests: (n, K, d) float32.
        items: the catalogue.
        k: how many.
        seen: (n, s) int64 ids never to retrieve, padded with 0; None excludes nothing.

    Memory is bounded by `VALUES_AT_ONCE` and n k, not by the catalogue.
    """
    return interest_search(interests, _pieces(items, interests.shape[2]), k, seen=seen)


def _pieces(items: ItemVectors, dim: int) -> Iterator[Tensor]:
    size = max(1, VALUES_AT_ONCE // dim)
    for start in range(1, items.num_items, size):
        yield items.rows(start, start + size)
