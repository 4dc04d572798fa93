"""Peak memory and time of `remi-fast prepare` on generated interactions.

python -m bench.prepare_memory --rows 10000000 --save prepare_memory
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from bench import results
from remi_fast.benchmark.generated import sequences


def write_raw(folder: Path, rows: int) -> list[Path]:
    """The same interactions, shuffled, as Parquet and as CSV; text user ids, integer item ids."""
    items, offsets = sequences(num_users=rows // 15, num_items=368_000, mean_length=15)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    frame = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": np.arange(len(items))})
    frame = frame.with_columns(pl.format("user-{}", "user_id").alias("user_id"))
    frame = frame.sample(fraction=1, shuffle=True, seed=1)
    frame.write_parquet(folder / "raw.parquet")
    frame.write_csv(folder / "raw.csv")
    return [folder / "raw.parquet", folder / "raw.csv"]


def main() -> None:
    """Prepare each file in a process of its own; print and save what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    measured = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in write_raw(folder, arguments.rows):
            command = [sys.executable, "-m", "remi_fast.cli", "prepare", str(file), "--json"]
            start = time.perf_counter()
            process = subprocess.Popen(
                [*command, "--out", str(folder / f"out{file.suffix}")], stdout=subprocess.DEVNULL
            )
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"prepare failed on {file.name}")
            measured[file.suffix] = {
                "seconds": round(time.perf_counter() - start, 1),
                "peak_GiB": round(usage.ru_maxrss / 2**20, 2),
                "file_GiB": round(file.stat().st_size / 2**30, 2),
            }
            print(file.suffix, measured[file.suffix], flush=True)
    if arguments.save:
        print(results.save(arguments.save, {"rows": arguments.rows} | measured))


if __name__ == "__main__":
    main()
