"""Training batches a second: drawn on the GPU, and by the C++ loader, in turns.

    python -m bench.batches_in_turns --save gpu_batches

10 M interactions of 650,000 users, histories of 20. On a GPU a CUDA graph draws one batch after the
other, each with the kernel that counts the step; the last of them is compared with the loader's.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch

from bench import results
from bench.loss_in_turns import DEVICE, captured, set_threads
from remi_fast.benchmark.generated import sequences, spans
from remi_fast.benchmark.turns import compared, take_turns
from remi_fast.data.device_loader import DeviceBatchLoader
from remi_fast.data.loader import BatchLoader

HISTORY = 20
Data = tuple[Any, Any, Any]


def options(batch_size: int, sampling: str) -> dict[str, Any]:
    """What both loaders are made with."""
    return {"batch_size": batch_size, "max_history": HISTORY, "seed": 1, "sampling": sampling}


def drawn(data: Data, batch_size: int, sampling: str, draws: int) -> Callable[[], object]:
    """One call draws so many batches on the device; checked against the C++ loader."""
    loader = DeviceBatchLoader(*data, device=DEVICE, **options(batch_size, sampling))
    step = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    last = []

    def draw() -> None:
        for _ in range(draws):
            last[:] = loader.draw(step)[1:]
            step.add_(1)

    run, is_graph = captured(draw)
    if DEVICE == "cuda" and not is_graph:
        raise SystemExit("the draws cannot be captured in a CUDA graph")
    step.zero_()
    run()
    with BatchLoader(*data, **options(batch_size, sampling)) as theirs:
        for mine, expected in zip(last, theirs.batch(draws - 1)[1:], strict=True):
            if not torch.equal(mine.cpu(), expected):
                raise SystemExit(f"batch {draws - 1}, {sampling}: other than the loader's")
    return run


def loaded(data: Data, batch_size: int, sampling: str, draws: int) -> Callable[[], object]:
    """One call takes so many batches from the C++ loader, with a thread a core."""
    loader = BatchLoader(*data, threads=0, ring=16, **options(batch_size, sampling))

    def take() -> None:
        for _ in range(draws):
            next(loader)

    return take


def main() -> None:
    """Check, compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 1024, 8192])
    parser.add_argument("--users", type=int, default=650_000)
    parser.add_argument("--draws", type=int, default=200, help="batches of one call")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="a turn")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    set_threads()
    items, offsets = sequences(arguments.users, num_items=368_000, mean_length=15)
    data = (items, *spans(offsets))
    found: dict[str, Any] = {"device": DEVICE, "interactions": len(items)}
    for size in arguments.batches:
        runs = {
            f"{name}, {sampling}": make(data, size, sampling, arguments.draws)
            for sampling in ("uniform", "epoch")
            for name, make in ((f"drawn on {DEVICE}", drawn), ("C++ loader", loaded))
        }
        first = next(iter(runs))
        table = compared(take_turns(runs, arguments.rounds, arguments.seconds), first)
        for row in table.values():
            row["samples_per_s"] = round(1e3 * arguments.draws * size / row["ms"])
        print(f"\nbatches of {size}, {arguments.draws} a call")
        results.show(table, first)
        for name, row in table.items():
            print(f"  {name}: {row['samples_per_s'] / 1e6:.1f} million samples/s")
        found[str(size)] = table
    if arguments.save:
        print(results.save(arguments.save, found))


if __name__ == "__main__":
    main()
