"""The update of the item table: DeferredAdam and its peers in turns, and how it grows.

    python -m bench.update_in_turns --save update_in_turns_cpu

First DeferredAdam is checked against torch.optim.Adam in float64. Then, for each batch size, all
contestants take turns at one catalogue, and DeferredAdam alone at all of them, uniform and Zipf.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch

from bench import fbgemm_peer, results
from bench.update_contestants import Update, contestants, deferred_adam, id_stream
from remi_fast.benchmark.turns import compared, take_turns
from remi_fast.kernels.native import C
from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHECKED = Update(3000, 8, "zipf", DEVICE)


def check() -> float:
    """Largest difference from float64 Adam after 40 steps on 3,000 items, as a share of the
    largest movement."""
    table = ItemTable(CHECKED.items, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    optimizer = DeferredAdam(table)
    before = table.weight.double().clone()
    dense = torch.nn.Parameter(before.clone())
    adam = torch.optim.Adam([dense])
    ids = id_stream(CHECKED)
    for step in range(40):
        mine = next(ids)
        gradients = _gradients(step)
        table(mine).backward(gradients)
        optimizer.step()
        optimizer.zero_grad()
        adam.zero_grad()
        dense[mine].backward(gradients.double())
        adam.step()
    moved = (dense - before).abs().max()
    return ((table.rows(0, CHECKED.items) - dense).abs().max() / moved).item()


def check_fbgemm() -> float:
    """The same of FBGEMM, from what it computes (`bench.fbgemm_peer`)."""
    weight = torch.randn(CHECKED.items, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    steps = zip(id_stream(CHECKED), map(_gradients, range(40)), strict=False)
    return fbgemm_peer.check(weight.to(DEVICE), steps)


def _gradients(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(CHECKED.rows, 64, generator=generator).to(DEVICE)


def in_turns(
    makers: dict[str, Callable[[], Callable[[], None]]], rounds: int, seconds: float
) -> dict[str, Any]:
    """Make all contestants, then let them take turns beside the first."""
    runs = {name: make() for name, make in makers.items()}
    first = next(iter(runs))
    table = compared(take_turns(runs, rounds, seconds), first)
    results.show(table, first)
    return table


def _fbgemm() -> dict[str, Any]:
    """Its check, or why it does not take part."""
    reason = fbgemm_peer.unavailable()
    if reason is not None:
        print(f"FBGEMM takes no part: {reason}")
        return {"cannot": reason}
    error = check_fbgemm()
    print(f"FBGEMM against its definition in float64: {error:.1e} of the largest movement")
    if error > 1e-3:
        raise SystemExit("FBGEMM does not compute what bench/fbgemm_peer.py says")
    return {"check": error}


def main() -> None:
    """Check, compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 1024, 8192])
    parser.add_argument("--items", nargs="+", type=float, default=[1e5, 3.68e5, 1e6, 1e7])
    parser.add_argument("--peers-at", nargs="*", type=float, default=[3.68e5], metavar="ITEMS")
    parser.add_argument(
        "--ids", nargs="+", choices=("uniform", "zipf"), default=["uniform", "zipf"]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="a turn")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    C.set_num_threads(0)
    torch.set_num_threads(C.num_threads())
    error = check()
    print(f"against float64 Adam: {error:.1e} of the largest movement")
    if error > 1e-4:
        raise SystemExit("DeferredAdam is not Adam here")
    found: dict[str, Any] = {"options": vars(arguments), "check": error}
    found["fbgemm"] = _fbgemm()
    for batch in arguments.batches:
        for items in arguments.peers_at:
            update = Update(int(items), batch, device=DEVICE)
            print(f"\n{update}: peers")
            makers = contestants(update)
            found[f"peers {update}"] = in_turns(makers, arguments.rounds, arguments.seconds)
        print(f"\nbatch {batch}: catalogues")
        updates = [
            Update(int(items), batch, ids, DEVICE)
            for items in arguments.items
            for ids in arguments.ids
        ]
        makers = {str(u): lambda u=u: deferred_adam(u) for u in updates}
        found[f"catalogues {batch}"] = in_turns(makers, arguments.rounds, arguments.seconds)
        if arguments.save:  # after each: a run cut short leaves what it had
            path = results.save(arguments.save, found)
    if arguments.save:
        print(path)


if __name__ == "__main__":
    main()
