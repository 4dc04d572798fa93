"""Opening a dataset verifies every byte of it, quickly and in little memory."""

import time
from pathlib import Path

import numpy as np
import polars as pl

from remi_fast import files
from remi_fast.data.dataset import ARRAYS, FORMAT, TABLES, VERSION, Dataset
from tests.memory import growth


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
        np.save(folder / name, array)
    for name, columns in TABLES.items():
        pl.DataFrame(dict.fromkeys(columns, [1])).write_parquet(folder / name)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "counts": {"users": users, "items": 1000, "interactions": users * per_user},
        "files": {name: files.checksums(folder / name) for name in (*ARRAYS, *TABLES)},
    }
    files.write_checked_json(folder / "manifest.json", manifest)


def test_opening_costs_at_most_a_second_for_2_gb(tmp_path, at_scale, record_property):
    """Warm, best of three; in the short form with room for a machine that does other things."""
    write_dataset(tmp_path, users=at_scale(200_000, 8_000_000), per_user=50)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        Dataset.open(tmp_path)
        seconds.append(time.perf_counter() - started)
    per_2_gb = min(seconds) * 2e9 / size
    record_property("seconds_per_2_gb", per_2_gb)
    manifest = files.read_checked_json(tmp_path / "manifest.json")
    memory = growth(files.verify_folder, tmp_path, "manifest.json", manifest["files"])
    record_property("memory_of_verification", memory)
    assert per_2_gb < at_scale(10, 1)
    assert memory < 32 << 20 < size
