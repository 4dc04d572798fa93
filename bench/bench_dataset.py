"""Opening a dataset of 10 M interactions, every byte of which is verified (docs/reliability.md);
files in the page cache. Memory and what is read: tests/reliability/test_verification_cost.py."""

from pathlib import Path

import numpy as np
import polars as pl

from remi_fast import files
from remi_fast.data.dataset import ARRAYS, FORMAT, TABLES, VERSION, Dataset


def write_dataset(folder: Path, users: int, per_user: int) -> None:
    """A dataset of so many interactions, as `prepare` would write it."""
    generator = np.random.default_rng(0)
    offsets = np.arange(users + 1, dtype=np.int64) * per_user
    starts, ends = offsets[:-1], offsets[1:]
    parts = np.split(generator.permutation(users).astype(np.int32), [users // 2, 3 * users // 4])
    arrays = {
        "items.npy": generator.integers(1, 1001, users * per_user, dtype=np.int32),
        "offsets.npy": offsets,
    }
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        edges = [starts, ends] if name == "train" else [starts, ends - 1, ends]
        part.sort()
        arrays[f"{name}_users.npy"] = part
        arrays[f"{name}_spans.npy"] = np.stack([edge[part] for edge in edges], axis=1)
    for name, array in arrays.items():
        np.save(folder / name, array, allow_pickle=False)
    for name, columns in TABLES.items():
        pl.DataFrame(dict.fromkeys(columns, [1])).write_parquet(folder / name)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "counts": {"users": users, "items": 1000, "interactions": users * per_user},
        "files": {name: files.checksums(folder / name) for name in (*ARRAYS, *TABLES)},
    }
    files.write_checked_json(folder / "manifest.json", manifest)


def test_open(benchmark, tmp_path):
    benchmark.group = "open a dataset"
    write_dataset(tmp_path, users=200_000, per_user=50)
    benchmark.extra_info["bytes"] = sum(path.stat().st_size for path in tmp_path.iterdir())
    benchmark.pedantic(Dataset.open, [tmp_path], rounds=5, warmup_rounds=1)
