"""Memory and speed of `remi-fast recommend` as the number of users grows; 50,000 items, K 4, d 64.

    python -m bench.recommend_stream --save recommend_stream

Generated histories of 10 items on average, one row an interaction; each command in a process of its
own, whose peak memory is its largest resident set.
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np

from bench import results
from bench.large_catalogue import measured, write_raw
from remi_fast.benchmark.generated import sequences

MEAN_HISTORY = 10


def write_histories(path: Path, users: int, items: int) -> int:
    """A Parquet or CSV file of this many users, in order of time; the number of rows.

    In a process of its own: what this one holds when it starts a command counts as the command's.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_write_histories, (path, users, items))


def _write_histories(path: Path, users: int, items: int) -> int:
    import polars as pl

    item, offsets = sequences(users, items + 1, MEAN_HISTORY)
    user = np.repeat(np.arange(users), np.diff(offsets))
    frame = pl.DataFrame({"user_id": user, "item_id": item.astype(np.int64) - 1})
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    return frame.height


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--folder", help="where there is room for 3 GB")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    options = parser.parse_args()
    found: dict[str, object] = {"items": options.items, "k": options.k}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_raw(folder / "raw.parquet", options.items)
        data, run = str(folder / "data"), str(folder / "run")
        measured("prepare", str(folder / "raw.parquet"), "--out", data, "--filter", "none")
        steps = ("--train.steps=200", "--train.eval_every=200", "--train.eval_users=16")
        measured("train", data, "--out", run, *steps)
        for users in options.users:
            for suffix in (".parquet", ".csv"):
                path = folder / f"histories{suffix}"
                rows = write_histories(path, users, options.items)
                out = folder / "out.parquet"
                words = ("--histories", str(path), "--out", str(out), "--k", str(options.k))
                taken = measured("recommend", run, *words)
                taken |= {"rows": rows, "users_per_s": round(users / taken["seconds"])}
                found[f"{users} users, {suffix}"] = taken
                print(users, suffix, taken)
                out.unlink()
                path.unlink()
    if options.save:
        print(results.save(options.save, found))


if __name__ == "__main__":
    main()
