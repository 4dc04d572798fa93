"""The update of the item table: DeferredAdam and its peers in turns, and how it grows.

First DeferredAdam is checked against torch.optim.Adam in float64, and FBGEMM against what it is
said to compute.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch

from remi_fast.benchmark import fbgemm_peer, resources
from remi_fast.benchmark.turns import (
    OURS,
    Contestant,
    check_error,
    compared,
    make_all,
    take_turns,
)
from remi_fast.benchmark.update_contestants import (
    DEFERRED,
    DIM,
    STREAM,
    Update,
    contestants,
    deferred_adam,
    gradients_of,
    id_stream,
)
from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam

Maker = Callable[[], Contestant]
STEPS = 40  # of a check
TOLERANCE, FBGEMM_TOLERANCE = 1e-4, 1e-3  # shares of the largest movement
TABLES = 3 + 4 + 6  # SparseAdam, dense Adam fused, foreach


def beside_peers(update: Update, rounds: int, seconds: float) -> dict[str, Any]:
    """One case: DeferredAdam and its peers on one catalogue."""
    device = update.device
    checks = {DEFERRED: check, fbgemm_peer.name(device): check_fbgemm}
    checked, cannot = make_all({name: partial(each, device) for name, each in checks.items()})
    makers = {name: make for name, make in contestants(update).items() if name not in cannot}
    case = _in_turns(makers, dict.fromkeys(makers, update), rounds, seconds)
    case["cannot"] |= cannot
    head = {"part": "update", "batch_size": update.batch, "items": update.items}
    head |= {"ids": update.ids, "rows": update.rows, "device": device}
    return head | {"checked": checked} | case


def by_catalogue(updates: Sequence[Update], rounds: int, seconds: float) -> dict[str, Any]:
    """One case: DeferredAdam alone on catalogues of several sizes, for one batch size."""
    first = updates[0]
    named = {f"{OURS}, {each.items:,} items, {each.ids}": each for each in updates}
    makers = {name: lambda each=each: deferred_adam(each) for name, each in named.items()}
    head = {"part": "update", "batch_size": first.batch, "items": [u.items for u in updates]}
    head |= {"ids": [u.ids for u in updates], "rows": first.rows, "device": first.device}
    head["checked"] = {DEFERRED: check(first.device)}
    return head | _in_turns(makers, named, rounds, seconds)


def check_memory(updates: Sequence[Update], peers: str) -> None:
    """Raise ConfigError where the tables that are there at once do not fit."""
    items, device = sum(update.items for update in updates), updates[0].device
    tables = 3 + (TABLES if peers != "none" else 0)
    what = f"--num-items {items:,} with --peers {peers}: all tables together"
    resources.check_memory(4 * items * DIM * tables, torch.device(device), what)


def _in_turns(
    makers: Mapping[str, Maker], updates: Mapping[str, Update], rounds: int, seconds: float
) -> dict[str, Any]:
    """All beside the first."""
    made, cannot = make_all(makers)
    times = take_turns({name: each.run for name, each in made.items()}, rounds, seconds)
    by_step = {name: [ms / made[name].steps for ms in values] for name, values in times.items()}
    table = compared(by_step, next(iter(makers)))
    rate = resources.copy_bandwidth(torch.device(next(iter(updates.values())).device))
    moved = {update: 1e3 * traffic(update) / rate for update in set(updates.values())}
    for name, row in table.items():
        row |= made[name].notes
        row["rows_per_s"] = round(1e3 * updates[name].rows / row["ms"])
        row["traffic_by_time"] = round(moved[updates[name]] / row["ms"], 4)
    speed = {"bytes_per_s": round(rate), "ms": {str(u): ms for u, ms in moved.items()}}
    return {"traffic": speed, "cannot": cannot, "contestants": table}


def traffic(update: Update) -> float:
    """Bytes of a step's rows, the mean over the ids that are used."""
    batches = islice(id_stream(update), STREAM)
    distinct = sum(len(ids.unique()) for ids in batches) / STREAM
    return resources.table_traffic(update.rows, distinct, DIM)


def check(device: str) -> float:
    """Largest difference from float64 Adam after `STEPS` steps on 3,000 items, as a share of the
    largest movement."""
    checked = _checked(device)
    generator = torch.Generator().manual_seed(0)
    table = ItemTable(checked.items, DIM, generator=generator, room_for_moments=True).to(device)
    optimizer = DeferredAdam(table)
    before = table.weight.double().clone()
    dense = torch.nn.Parameter(before.clone())
    adam = torch.optim.Adam([dense])
    for step, ids in enumerate(islice(id_stream(checked), STEPS)):
        gradients = gradients_of(checked, step)
        table(ids).backward(gradients)
        optimizer.step()
        optimizer.zero_grad()
        adam.zero_grad()
        dense[ids].backward(gradients.double())
        adam.step()
    moved = (dense - before).abs().max()
    found = ((table.rows(0, checked.items) - dense).abs().max() / moved).item()
    return check_error(found, TOLERANCE, "DeferredAdam against torch.optim.Adam in float64")


def check_fbgemm(device: str) -> float:
    """The same of FBGEMM, from what it computes (`fbgemm_peer`)."""
    checked = _checked(device)
    weight = torch.randn(checked.items, DIM, generator=torch.Generator().manual_seed(0)) * 0.1
    gradients = (gradients_of(checked, step) for step in range(STEPS))
    steps = zip(id_stream(checked), gradients, strict=False)
    found = fbgemm_peer.check(weight.to(device), steps)
    return check_error(found, FBGEMM_TOLERANCE, "FBGEMM against its definition in float64")


def _checked(device: str) -> Update:
    return Update(3000, 8, "zipf", device)
