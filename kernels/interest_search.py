"""Exact top-k search over a catalogue, by the best of a user's interests.

On the CPU in C++; on a GPU tile by tile in PyTorch, whose matrix products are what takes the time.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .dispatch import choose
from .native import C

SCORES_AT_ONCE = 1 << 27  # of a tile, some users by a piece of the catalogue: 512 MiB
_GROUP = 64  # items of a tile that only the largest of is looked at first


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

    The native backend (CPU) keeps neither scores nor pieces: about 24 n k bytes, whatever the
    catalogue. Its bits depend on the instruction set, not on threads or pieces. The tiled one (any
    device) keeps a tile of `SCORES_AT_ONCE`; of items with the same score as the k-th it finds any.
    """
    backends = {"native": _native, "tiled": _tiled, "reference": _reference}
    if interests.device.type != "cpu":
        del backends["native"]
    implementation = choose("interest_search", backend, backends, interests.device)
    if seen is None:
        seen = torch.empty(len(interests), 0, dtype=torch.int64, device=interests.device)
    return TopK(*implementation(interests, rows, k, seen))


def _native(
    interests: Tensor, rows: Iterable[Tensor], k: int, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if interests.dtype != torch.float32:
        raise TypeError(
            f"interest_search: got interests {interests.dtype}, "
            "expected float32 for the native backend"
        )
    search = C.InterestSearch(interests.detach().contiguous().numpy(), k, seen.contiguous().numpy())
    first = 1
    for piece in rows:
        search.add(piece.detach().contiguous().numpy(), first)
        first += len(piece)
    ids, scores, interest = (torch.from_numpy(found) for found in search.result())
    return ids, scores, interest


def _tiled(
    interests: Tensor, rows: Iterable[Tensor], k: int, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _check(interests, k, seen)
    best = TopK(
        ids=torch.zeros(len(interests), k, dtype=torch.int64, device=interests.device),
        scores=interests.new_full((len(interests), k), -math.inf),
        interest=torch.zeros(len(interests), k, dtype=torch.int64, device=interests.device),
    )
    first = 1
    for piece in rows:
        if piece.ndim != 2 or piece.shape[1] != interests.shape[2]:
            raise ValueError(
                f"rows: got shape {tuple(piece.shape)}, expected (m, {interests.shape[2]})"
            )
        size = max(1, SCORES_AT_ONCE // max(1, interests.shape[1] * len(piece)))
        for start in range(0, len(interests) if len(piece) else 0, size):
            some = slice(start, start + size)
            found = _best_of_tile(interests[some], piece, first, k, seen[some])
            before = TopK(*(x[some] for x in best))
            both = TopK(*(torch.cat(pair, dim=1) for pair in zip(before, found, strict=True)))
            order = both.scores.topk(k, dim=1).indices
            for kept, values in zip(before, both, strict=True):
                kept.copy_(values.gather(1, order))
        first += len(piece)
    return in_order(best)


def in_order(found: TopK) -> TopK:
    """Best first, equal scores by smaller id."""
    by_id = found.ids.sort(dim=1).indices
    by_score = found.scores.gather(1, by_id).sort(dim=1, descending=True, stable=True).indices
    order = by_id.gather(1, by_score)
    return TopK(*(x.gather(1, order) for x in found))


def _check(interests: Tensor, k: int, seen: Tensor) -> None:
    if k < 1:
        raise ValueError(f"k: got {k}, expected 1 <= k")
    if seen.ndim != 2 or len(seen) != len(interests):
        raise ValueError(f"seen: got shape {tuple(seen.shape)}, expected ({len(interests)}, s)")


def _best_of_tile(interests: Tensor, tile: Tensor, first: int, k: int, seen: Tensor) -> TopK:
    """Of the items first, first + 1, ..., whose vectors are the tile (m, d)."""
    users, number, dim = interests.shape
    size = len(tile)
    products = interests.reshape(users * number, dim) @ tile.T
    # One column more, where seen items that are not in this tile are struck out.
    scores = interests.new_empty(users, size + 1)
    torch.amax(products.view(users, number, size), dim=1, out=scores[:, :size])
    scores.nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    place = seen - first
    struck = torch.where((place >= 0) & (place < size), place, size)
    scores[:, size] = -math.inf
    scores.scatter_(1, struck, -math.inf)
    scores, place = _largest(scores, min(k, size + 1))
    there = scores > -math.inf
    place = torch.where(there, place, 0)
    each = torch.einsum("nkd,nhd->nhk", tile[place], interests)
    ids, interest = (torch.where(there, x, 0) for x in (place + first, each.argmax(dim=1)))
    return TopK(ids, scores, interest)


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of scores (n, m), and where they are.

    Each lies in one of the k groups that have the largest maximum: few of the scores are sorted.
    """
    if scores.shape[1] < 4 * k * _GROUP:
        largest, place = scores.topk(k, dim=1)
        return largest, place
    groups = torch.nn.functional.pad(scores, (0, -scores.shape[1] % _GROUP), value=-math.inf)
    groups = groups.view(len(scores), -1, _GROUP)
    group = groups.amax(dim=2).topk(k, dim=1).indices
    few = groups.gather(1, group[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    largest, place = few.topk(k, dim=1)
    return largest, group.gather(1, place // _GROUP) * _GROUP + place % _GROUP


def _reference(
    interests: Tensor, rows: Iterable[Tensor], k: int, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.interest_search(interests, torch.cat(list(rows)), k, seen)
