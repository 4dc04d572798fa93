"""One step's work on the item table: gather, catch-up, update; by DeferredAdam and its peers.

The rows of a step are those of REMI's: B histories of 20, B targets, 10 B shared negatives; d = 64.
Each contestant gathers, is given the same gradients and updates. SparseAdam and FBGEMM are not
Adam: they leave out what the others do to idle rows.

On a GPU, where launching a step takes the host longer than the step, Adam's are CUDA graphs of
`STREAM` steps each. SparseAdam and FBGEMM go step by step: one waits for the device, the other
counts its steps on the host.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from remi_fast.benchmark import fbgemm_peer
from remi_fast.benchmark.published import HISTORY, NEGATIVES
from remi_fast.benchmark.turns import Contestant, captured
from remi_fast.kernels.step_guard import StepGuard
from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam

DEFERRED = "remi-fast, DeferredAdam"
DIM = 64
WARM_STEP = 20_000  # the step that the state of the table is made for
STREAM = 32  # different batches of ids
ROOM = 1 << 22  # steps that a graph is made for


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


def id_batches(update: Update) -> list[Tensor]:
    """Ids of `STREAM` steps, on the device, in random places of the table."""
    generator = torch.Generator().manual_seed(1)
    cumulative = popularity(update).cumsum(0)
    shuffled = 1 + torch.randperm(update.items - 1, generator=generator)
    batches = []
    for _ in range(STREAM):
        unit = torch.rand(update.rows, generator=generator, dtype=torch.float64)
        ranks = torch.searchsorted(cumulative, unit).clamp_(1, update.items - 1)
        batches.append(shuffled[ranks - 1].to(update.device))
    return batches


def id_stream(update: Update) -> Iterator[Tensor]:
    """Those, over and over."""
    return cycle(id_batches(update))


def deferred_adam(update: Update) -> Contestant:
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
    batches, gradients = id_batches(update), gradients_of(update)
    if update.device == "cuda":
        return on_device(table, optimizer, batches, gradients)
    ids = cycle(batches)
    return Contestant(lambda: _step(table, optimizer, next(ids), gradients))


def _step(table: ItemTable, optimizer: DeferredAdam, ids: Tensor, gradients: Tensor) -> None:
    table(ids).backward(gradients)
    optimizer.step()
    optimizer.zero_grad()


def on_device(
    table: ItemTable, optimizer: DeferredAdam, batches: Sequence[Tensor], gradients: Tensor
) -> Contestant:
    """DeferredAdam as `DeviceStep` trains with it: a call makes a step of each of the batches, and
    the device counts them.

    batches: (n,) each, and read where they are; gradients: (n, d). Nobody looks whether something
    is not finite. `ROOM` steps may be made.
    """
    guard, rate = StepGuard(1, table.weight.device), float(optimizer.param_groups[0]["lr"])
    optimizer.reserve(optimizer.steps_taken + ROOM)
    optimizer.use_guard(guard)
    optimizer.schedule_steps([])  # the device is at the step that the host is at

    def launch() -> None:
        for ids in batches:
            _step(table, optimizer, ids, gradients)

    guard.hold(True)  # what is launched to make the graph changes nothing
    replay, is_graph = captured(launch, table.weight.device)
    guard.hold(False)

    def run() -> None:
        optimizer.schedule_steps([rate] * len(batches))
        replay()

    return Contestant(run, len(batches), {"captured": is_graph})


def gradients_of(update: Update, step: int = 0) -> Tensor:
    """(rows, d), of each step others."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(update.rows, DIM, generator=generator).to(update.device) * 1e-4


def _sparse_adam(update: Update) -> Contestant:
    embedding = torch.nn.Embedding(update.items, DIM, sparse=True, device=update.device)
    optimizer = torch.optim.SparseAdam(list(embedding.parameters()))
    ids, gradients = id_stream(update), gradients_of(update)
    return _eager(update, lambda: _peer_step(embedding, optimizer, next(ids), gradients))


def _dense_adam(update: Update, options: dict[str, Any]) -> Contestant:
    embedding = torch.nn.Embedding(update.items, DIM, device=update.device)
    optimizer = torch.optim.Adam(embedding.parameters(), **options)
    batches, gradients = id_batches(update), gradients_of(update)
    if update.device == "cpu":
        ids = cycle(batches)
        return Contestant(lambda: _peer_step(embedding, optimizer, next(ids), gradients))

    def launch() -> None:
        for ids in batches:
            _peer_step(embedding, optimizer, ids, gradients)

    replay, is_graph = captured(launch, torch.device(update.device))
    return Contestant(replay, len(batches), {"captured": is_graph})


def _peer_step(
    embedding: torch.nn.Embedding, optimizer: torch.optim.Optimizer, ids: Tensor, gradients: Tensor
) -> None:
    optimizer.zero_grad()
    embedding(ids).backward(gradients)
    optimizer.step()


def _fbgemm(update: Update) -> Contestant:
    weight = torch.nn.Embedding(update.items, DIM, device=update.device).weight.detach()
    lookup = fbgemm_peer.embedding(weight, most=update.rows)
    ids, gradients = id_stream(update), gradients_of(update)
    return _eager(update, lambda: lookup(next(ids)).backward(gradients))


def _eager(update: Update, run: Callable[[], object]) -> Contestant:
    """A peer that a graph cannot hold."""
    return Contestant(run, notes={"captured": False} if update.device == "cuda" else {})


def contestants(update: Update) -> dict[str, Callable[[], Contestant]]:
    """By name, what makes each."""
    found: dict[str, Callable[[], Contestant]] = {
        DEFERRED: lambda: deferred_adam(update),
        "SparseAdam (not Adam)": lambda: _sparse_adam(update),
    }
    if fbgemm_peer.unavailable() is None:
        found[fbgemm_peer.name(update.device)] = lambda: _fbgemm(update)
    for kind in ("fused", "foreach"):
        options = {kind: True, "capturable": update.device == "cuda"}
        found[f"dense Adam, {kind}"] = partial(_dense_adam, update, options)
    return found
