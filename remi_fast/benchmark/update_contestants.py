"""One step's work on the item table: gather, catch-up, update; by DeferredAdam and its peers.

The rows of a step are those of REMI's: B histories of 20, B targets, 10 B shared negatives; d = 64.
Each contestant gathers, is given the same gradients and updates. SparseAdam and FBGEMM are not
Adam: they leave out what the others do to idle rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from remi_fast.benchmark import fbgemm_peer
from remi_fast.benchmark.published import HISTORY, NEGATIVES
from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam

DEFERRED = "remi-fast, DeferredAdam"
DIM = 64
WARM_STEP = 20_000  # the step that the state of the table is made for
STREAM = 32  # different batches of ids


@dataclass(frozen=True)
class Update:
    """Items I of the table, batch B, and how ids are drawn: "uniform" or "zipf" (exponent 1.05)."""

    items: int
    batch: int
    ids: str = "uniform"
    device: str = "cpu"

    @property
    def rows(self) -> int:
        """Rows gathered in a step."""
        return self.batch * (HISTORY + 1 + NEGATIVES)

    def __str__(self) -> str:
        return f"{self.items}-{self.batch}-{self.ids}"


def popularity(update: Update) -> Tensor:
    """(I,) float64, how likely one draw is to be each item; 0 for padding."""
    ranks = torch.arange(update.items, dtype=torch.float64)
    weights = ranks.clamp_min(1) ** -1.05 if update.ids == "zipf" else torch.ones_like(ranks)
    weights[0] = 0
    return weights / weights.sum()


def id_stream(update: Update) -> Iterator[Tensor]:
    """Ids of one step after the other, on the device, in random places of the table."""
    generator = torch.Generator().manual_seed(1)
    cumulative = popularity(update).cumsum(0)
    shuffled = 1 + torch.randperm(update.items - 1, generator=generator)
    batches = []
    for _ in range(STREAM):
        unit = torch.rand(update.rows, generator=generator, dtype=torch.float64)
        ranks = torch.searchsorted(cumulative, unit).clamp_(1, update.items - 1)
        batches.append(shuffled[ranks - 1].to(update.device))
    return cycle(batches)


def deferred_adam(update: Update) -> Callable[[], None]:
    """DeferredAdam on a table as a long training leaves it: moments that are not 0, and gaps since
    the last touch as they come out in the long run (geometric)."""
    table = ItemTable(update.items, DIM, device=update.device, room_for_moments=True)
    optimizer = DeferredAdam(table)
    state = optimizer.state_dict()
    generator = torch.Generator().manual_seed(2)
    generator_on_device = torch.Generator(update.device).manual_seed(2)
    state["exp_avg"].normal_(0, 1e-4, generator=generator_on_device)
    state["exp_avg_sq"].normal_(0, 1e-4, generator=generator_on_device).square_()
    touched = -torch.expm1(update.rows * torch.log1p(-popularity(update)))  # in one step
    unit = torch.rand(update.items, generator=generator, dtype=torch.float64)
    gaps = (torch.log(unit) / torch.log1p(-touched)).floor_().nan_to_num_(0, WARM_STEP, WARM_STEP)
    stamps = (WARM_STEP - gaps.clamp_(0, WARM_STEP)).to(torch.int32)
    shuffled = 1 + torch.randperm(update.items - 1, generator=torch.Generator().manual_seed(1))
    state["stamp"][shuffled.to(update.device)] = stamps[1:].to(update.device)
    optimizer.load_state_dict(state | {"step": WARM_STEP, "lr_runs": [(1, 1e-3)]})
    ids, gradients = id_stream(update), gradients_of(update)

    def step() -> None:
        table(next(ids)).backward(gradients)
        optimizer.step()
        optimizer.zero_grad()

    return step


def gradients_of(update: Update, step: int = 0) -> Tensor:
    """(rows, d), of each step others."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(update.rows, DIM, generator=generator).to(update.device) * 1e-4


def _embedding(
    update: Update,
    make_optimizer: Callable[[Iterator[torch.nn.Parameter]], torch.optim.Optimizer],
    *,
    sparse: bool = False,
) -> Callable[[], None]:
    embedding = torch.nn.Embedding(update.items, DIM, sparse=sparse, device=update.device)
    optimizer = make_optimizer(embedding.parameters())
    ids, gradients = id_stream(update), gradients_of(update)

    def step() -> None:
        optimizer.zero_grad()
        embedding(next(ids)).backward(gradients)
        optimizer.step()

    return step


def _fbgemm(update: Update) -> Callable[[], None]:
    weight = torch.nn.Embedding(update.items, DIM, device=update.device).weight.detach()
    lookup = fbgemm_peer.embedding(weight, most=update.rows)
    ids, gradients = id_stream(update), gradients_of(update)
    return lambda: lookup(next(ids)).backward(gradients)


def _dense_adam(update: Update, options: dict[str, Any]) -> Callable[[], None]:
    return _embedding(update, lambda p: torch.optim.Adam(p, **options))


def contestants(update: Update) -> dict[str, Callable[[], Callable[[], None]]]:
    """By name, what makes the step; dense ones only where their four tables have room."""
    found: dict[str, Callable[[], Callable[[], None]]] = {
        DEFERRED: lambda: deferred_adam(update),
        "SparseAdam (not Adam)": lambda: _embedding(
            update, lambda p: torch.optim.SparseAdam(list(p)), sparse=True
        ),
    }
    if fbgemm_peer.unavailable() is None:
        found[fbgemm_peer.name(update.device)] = lambda: _fbgemm(update)
    kinds = {"fused": {"fused": True}, "foreach": {"foreach": True}}
    if update.device == "cuda":
        kinds["capturable"] = {"capturable": True}
    for name, options in kinds.items():
        found[f"dense Adam, {name}"] = partial(_dense_adam, update, options)
    return found
