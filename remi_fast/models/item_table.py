"""The item embeddings: a module of their own, so that no dense gradient is ever made."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from remi_fast.kernels.checks import (
    check_ids,
    check_inside,
    check_tensor,
    check_weight,
    check_whole,
)
from remi_fast.kernels.memory import has_room, spread, table_zeros

_WITH_MOMENTS = 3  # parts of a row: itself, and Adam's two moments


class RowSource(Protocol):
    """What an optimizer that owns late rows offers to the table (see DeferredAdam)."""

    def gather_each(self, ids: Sequence[Tensor], rows: Any = None) -> list[Tensor]:
        """Up-to-date rows that take part in the next step: leaves that require grad.

        rows: what the source has made of these ids before.
        """

    def read(self, ids: Tensor) -> Tensor:
        """Up-to-date copies; changes nothing."""


class ItemTable(nn.Module):
    """Item embeddings E (I, d) float32; row 0 is padding: zero, and never updated.

    With a DeferredAdam attached, `table(ids)` returns rows that are up to date, and their gradient
    goes to the optimizer, one row an occurrence. `table.weight` itself may then be behind: read
    rows through the table, or call the optimizer's `flush()` first. Without an optimizer, or under
    `torch.no_grad()`, `table(ids)` only reads.
    """

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        std: float | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        room_for_moments: bool = False,
    ) -> None:
        """num_items: I, padding included; std: of the normal initialisation, sqrt(2 / d) if None;
        device: where to make it (a large table would not pass through another), as `generator`.
        room_for_moments: on the CPU an optimizer puts the two moments of a row behind it, so that
        all are on one page of memory: faster beyond 10^6 items. `weight` is not contiguous then.

        Raises ValueError if there is no item beside the padding row.
        """
        super().__init__()
        check_whole("num_items", num_items)
        check_whole("dim", dim)
        if not 2 <= num_items < 2**31 or not 1 <= dim < 2**31:
            raise ValueError(
                f"got num_items {num_items}, dim {dim}; "
                "expected at least 2 (padding and one item) and 1, both below 2^31"
            )
        if std is not None:
            check_weight("std", std)
        where = torch.get_default_device() if device is None else torch.device(device)
        weight = table_zeros(
            num_items,
            dim,
            dtype=torch.float32,
            device=where,
            room=_WITH_MOMENTS if room_for_moments else 1,
        )
        weight.normal_(0.0, math.sqrt(2 / dim) if std is None else std, generator=generator)
        weight[0] = 0
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.source: RowSource | None = None

    @property
    def num_items(self) -> int:
        """I, with the padding row."""
        return self.weight.shape[0]

    @property
    def dim(self) -> int:
        """d."""
        return self.weight.shape[1]

    def with_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """`weight` and what an optimizer keeps beside it: three tensors (I, d), the last two zeros.

        Where there is room for the moments, the rows of `weight` move apart for it, in place.
        """
        weight = self.weight.detach()
        if not has_room(weight, _WITH_MOMENTS):
            dtype, device = weight.dtype, weight.device
            exp_avg, exp_avg_sq = (
                table_zeros(*weight.shape, dtype=dtype, device=device) for _ in range(2)
            )
            return weight, exp_avg, exp_avg_sq
        weight, exp_avg, exp_avg_sq = spread(weight, _WITH_MOMENTS).unbind(1)
        self.weight.data = weight
        return weight, exp_avg, exp_avg_sq

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of `ids` (any shape S, int32 or int64): (S, d). Raises as `read`."""
        return self.lookup(ids)[0]

    def lookup(self, *ids: Tensor, rows: Any = None) -> list[Tensor]:
        """Rows of each of the `ids` (any shapes S_i, int32 or int64): (S_i, d). Raises as `read`.

        As calls one by one, but each row is brought up to date once and its gradients are summed
        once, however many of the tensors it is in. rows: as of `RowSource`.
        """
        for each in ids:
            check_tensor("ids", each)
        flat = [each.reshape(-1) for each in ids]
        if self.source is not None and torch.is_grad_enabled():
            vectors = self.source.gather_each(flat, rows)
        else:
            vectors = [self.read(each) for each in flat]
        return [x.view(*each.shape, self.dim) for x, each in zip(vectors, ids, strict=True)]

    def read(self, ids: Tensor) -> Tensor:
        """Up-to-date copies of the rows `ids` (n,): (n, d). Changes nothing.

        Raises TypeError for another dtype, ValueError for another device, and IndexError naming
        the first id outside [0, I) (on the CPU).
        """
        if self.source is not None:
            return self.source.read(ids)
        check_ids("ids", ids, self.weight.device)
        if ids.device.type == "cpu":
            check_inside("ids", ids, self.num_items)
        return self.weight.detach()[ids.long()]

    def rows(self, start: int, end: int) -> Tensor:
        """Up-to-date copies of rows start..end (cut off at I): (end - start, d). Changes nothing.

        Raises IndexError unless 0 <= start <= end, start <= I.
        """
        if not 0 <= start <= min(end, self.num_items):
            raise IndexError(
                f"rows: got {start} to {end}, expected 0 <= start <= end, start <= {self.num_items}"
            )
        return self.read(torch.arange(start, min(end, self.num_items), device=self.weight.device))
