"""Exact top-k search over a catalogue, by the best of a user's interests; on the CPU in C++."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .dispatch import choose
from .native import C


class TopK(NamedTuple):
    """Retrieved items, best first, equal scores by smaller id; id 0 fills up where none is left."""

    ids: Tensor  # (n, k) int64
    scores: Tensor  # (n, k), -inf where id is 0
    interest: Tensor  # (n, k) int64, the interest that retrieved the item


def interest_search(
    interests: Tensor,
    rows: Iterable[Tensor],
    k: int,
    *,
    seen: Tensor | None = None,
    backend: str = "auto",
) -> TopK:
    """The k items with the largest max_j <v_j, e_i>, of each user.

    Args:
        interests: v (n, K, d), float32 for the native backend, K and d at least 1.
        rows: e, the vectors of items 1, 2, ... in pieces (m, d), as `interests`.
        k: how many, at least 1.
        seen: (n, s) int64 ids never to retrieve, padded with 0; None excludes nothing.

    The native backend keeps neither scores nor pieces: about 24 n k bytes, whatever the catalogue.
    Its bits depend on the instruction set, not on threads or pieces.
    """
    implementation = choose(
        "interest_search",
        backend,
        {"native": _native, "reference": _reference},
        interests.device,
    )
    if seen is None:
        seen = torch.empty(len(interests), 0, dtype=torch.int64, device=interests.device)
    return TopK(*implementation(interests, rows, k, seen))


def _native(
    interests: Tensor, rows: Iterable[Tensor], k: int, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if interests.device.type != "cpu" or interests.dtype != torch.float32:
        raise TypeError(
            f"interest_search: got interests {interests.dtype} on {interests.device}, "
            "expected float32 on the CPU for the native backend"
        )
    search = C.InterestSearch(interests.detach().contiguous().numpy(), k, seen.contiguous().numpy())
    first = 1
    for piece in rows:
        search.add(piece.detach().contiguous().numpy(), first)
        first += len(piece)
    ids, scores, interest = (torch.from_numpy(found) for found in search.result())
    return ids, scores, interest


def _reference(
    interests: Tensor, rows: Iterable[Tensor], k: int, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.interest_search(interests, torch.cat(list(rows)), k, seen)
