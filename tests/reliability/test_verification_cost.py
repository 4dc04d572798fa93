"""Opening a dataset verifies every byte of it once, in little memory (bench/bench_dataset.py has
the time)."""

from pathlib import Path

import pytest

from bench.bench_dataset import write_dataset
from remi_fast import files
from remi_fast.data.dataset import Dataset
from tests.memory import growth


@pytest.fixture
def folder(tmp_path, at_scale):
    write_dataset(tmp_path, users=at_scale(200_000, 8_000_000), per_user=50)
    return tmp_path


def test_verification_takes_little_memory(folder, record_property):
    size = sum(path.stat().st_size for path in folder.iterdir())
    manifest = files.read_checked_json(folder / "manifest.json")
    memory = growth(files.verify_folder, folder, "manifest.json", manifest["files"])
    record_property("memory_of_verification", memory)
    assert memory < 32 << 20 < size


def bytes_read(call, *arguments):
    """Asked of the system by this process, from the page cache or not; mapped ones are none."""

    def so_far():
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

    before = so_far()
    call(*arguments)
    return so_far() - before


def test_every_byte_is_read_once(folder):
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size <= bytes_read(Dataset.open, folder) < 1.1 * size
