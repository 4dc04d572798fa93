"""Peak memory of training a large catalogue; each command in a process of its own.

python -m bench.large_catalogue --save large_catalogue_cpu
python -m bench.large_catalogue --device cuda --items 100000000 --save large_catalogue_gpu

On a device: the item table with DeferredAdam in a loop of its own, without checkpoints.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench import results
from remi_fast.benchmark import update_contestants
from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam

USERS = 500  # few, for validation and test to be a small part
DIM = 64
ROWS_AT_ONCE = 1 << 20
STEPS_A_CALL = 20  # on a device


def write_raw(path: Path, items: int) -> None:
    """Every item once, shuffled among the users."""
    import polars as pl  # a GPU machine may have little more than torch

    generator = np.random.default_rng(1)
    item = generator.permutation(items)
    user = np.arange(items) % USERS
    pl.DataFrame({"user_id": user, "item_id": item, "timestamp": item}).write_parquet(path)


def measured(*words: str) -> dict[str, float]:
    """Run `remi-fast` with these arguments; return seconds and peak memory."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "remi_fast.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(words)}")
    taken = {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_GiB": round(usage.ru_maxrss / 2**20, 2),
    }
    print(words[0], taken, flush=True)
    return taken


def commands(items: int, steps: int, folder: str | None) -> dict[str, dict[str, float]]:
    """Prepare, train, resume and evaluate, each measured."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        raw, data, run, other = (
            f"{name}/{part}" for part in ("raw.parquet", "data", "run", "other")
        )
        write_raw(Path(raw), items)
        settings = [
            f"--train.steps={steps}",
            f"--train.eval_every={steps // 2}",
            "--train.eval_users=16",
        ]
        return {
            "prepare": measured("prepare", raw, "--out", data, "--filter", "none"),
            "train": measured("train", data, "--out", run, *settings),
            # of the finished run: loads the last state, then tests the best weights
            "resume": measured("train", "--out", run, "--resume"),
            "evaluate": measured("evaluate", run),
            "train without checkpoints": measured(
                "train", data, "--out", other, *settings, "--train.checkpoints=none"
            ),
        }


def on_device(items: int, steps: int, device: str) -> dict[str, float]:
    """Steps of 128 x 20 histories, targets and 1280 negatives; then every row read once."""
    torch.cuda.reset_peak_memory_stats()
    table = ItemTable(items, DIM, device=device)
    ids = torch.randint(1, items, (STEPS_A_CALL, 128 * 21 + 1280), device=device)
    gradients = 1e-4 * torch.randn(ids.shape[1], DIM, device=device)
    made = update_contestants.on_device(table, DeferredAdam(table), ids.unbind(), gradients)
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    calls = max(2, steps // made.steps)
    for call in range(calls):
        if call == calls // 2:
            start.record()
        made.run()
        ids.random_(1, items)
    end.record()
    for first in range(0, items, ROWS_AT_ONCE):
        assert table.rows(first, first + ROWS_AT_ONCE).isfinite().all()
    torch.cuda.synchronize()
    taken = {
        "ms_a_step": round(start.elapsed_time(end) / (made.steps * (calls - calls // 2)), 3),
        "captured": made.notes["captured"],
        "peak_GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "reserved_GiB": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "free_GiB": round(torch.cuda.mem_get_info()[0] / 2**30, 2),
    }
    print(taken)
    return taken


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--device", help="measure the table there; else the commands on the CPU")
    parser.add_argument("--folder", help="where there is room for 3000 bytes an item")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    items, steps = arguments.items, arguments.steps
    taken: dict[str, object] = {
        "items": items,
        "steps": steps,
        "state_GiB": round(items * (DIM * 12 + 4) / 2**30, 2),
    }
    print(taken)
    if arguments.device:
        taken |= on_device(items, steps, arguments.device)
    else:
        taken |= commands(items, steps, arguments.folder)
    if arguments.save:
        print(results.save(arguments.save, taken))


if __name__ == "__main__":
    main()
