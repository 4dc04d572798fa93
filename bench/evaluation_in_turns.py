"""Exact evaluation: K interests x the whole catalogue, top 50, beside torch's matmul and topk.

    python -m bench.evaluation_in_turns --save gpu_evaluation

60,000 users x 4 interests, 368,000 items, dimension 64, generated vectors, on the GPU if there is
one. Checked first: ids equal to the peer's, but for near-ties, which float64 settles. Products are
float32 (and tf32 on a GPU, where the peer alone takes its turn).
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import results
from bench.loss_in_turns import DEVICE, set_threads
from bench.search_in_turns import K, check, generated
from remi_fast.benchmark.turns import compared, take_turns
from remi_fast.models.item_table import ItemTable
from remi_fast.retrieval.search import search

OURS = "remi-fast"
SCORES_AT_ONCE = 1 << 30  # of the peer: 4 GiB


def matmul_and_topk(interests: Tensor, weight: Tensor) -> Tensor:
    """ids (n, 50) of all users, as many at a time as SCORES_AT_ONCE allows."""
    users = max(1, SCORES_AT_ONCE // (interests.shape[1] * len(weight)))
    found = []
    for block in interests.split(users):
        scores = (block.flatten(0, 1) @ weight.T).view(*block.shape[:2], -1).amax(1)
        scores[:, 0] = -torch.inf  # padding
        found.append(scores.topk(K, dim=1).indices)
    return torch.cat(found)


def contestants(interests: Tensor, table: ItemTable) -> dict[str, Callable[[], object]]:
    """By name; the first is what the others are compared with."""
    weight = table.weight.detach()
    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: search(interests, table, K),
        "torch matmul and topk": lambda: matmul_and_topk(interests, weight),
    }
    if DEVICE == "cuda":

        def tf32() -> None:
            torch.set_float32_matmul_precision("high")
            try:
                matmul_and_topk(interests, weight)
            finally:
                torch.set_float32_matmul_precision("highest")

        runs["torch matmul (tf32) and topk"] = tf32
    return runs


def main() -> None:
    """Check, compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=60_000)
    parser.add_argument("--items", type=int, default=368_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    set_threads()
    interests, table = generated(arguments.users, arguments.items)
    interests, table = interests.to(DEVICE), table.to(DEVICE)
    found: dict[str, Any] = {"device": DEVICE, "items": table.num_items}
    found["interests"] = list(interests.shape)
    few = interests[:1000]
    ours, theirs = search(few, table, K).ids, matmul_and_topk(few, table.weight.detach())
    found["check"] = check(ours.to(DEVICE), theirs, few, table)
    print(found)
    found["turns"] = compared(
        take_turns(contestants(interests, table), arguments.rounds, seconds=0), OURS
    )
    results.show(found["turns"], OURS)
    if arguments.save:
        print(results.save(arguments.save, found))


if __name__ == "__main__":
    main()
