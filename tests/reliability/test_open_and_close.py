"""What is opened and closed thousands of times leaves no memory, no file and no thread behind."""

import os

import pytest
import torch

from remi_fast import DeferredAdam
from remi_fast.config import ModelConfig
from remi_fast.data.dataset import Dataset
from remi_fast.data.loader import BatchLoader
from remi_fast.models.item_table import ItemTable
from remi_fast.models.recommender import make_model
from remi_fast.training import checkpoint
from tests.memory import resident

WARM_UP = 300
ITEMS = 500
# safetensors 0.8.0 keeps 64 bytes of every tensor that it gives to torch, here 4, read twice over.
LEFT_BY_OTHERS = {"checkpoint_cycle": 64 * 4 * 2}


def loader_cycle(dataset, _):
    options = {"batch_size": 32, "max_history": 10, "seed": 1, "threads": 3}
    with BatchLoader(dataset.items, dataset.train_users, dataset.train_spans, **options) as loader:
        next(loader)


def dataset_cycle(dataset, _):
    opened = Dataset.open(dataset.path)
    assert opened.items[0] == dataset.items[0]


def checkpoint_cycle(_, folder):
    model = make_model(ModelConfig(dim=8, num_interests=2, max_history=4), ITEMS, seed=1)
    if not folder.exists():
        checkpoint.save_weights(folder, model, {"step": 1})
    checkpoint.load_weights(folder, model)


def adam_cycle(_, __):
    table = ItemTable(ITEMS, 8)
    optimizer = DeferredAdam(table, lr=1e-3)
    for step in range(3):
        table(torch.arange(1 + step, ITEMS, 9)).sum().backward()
        optimizer.step()
    optimizer.flush()


def held():
    """Open files and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("cycle", [loader_cycle, dataset_cycle, checkpoint_cycle, adam_cycle])
def test_cycles_leave_nothing_behind(cycle, dataset, tmp_path, at_scale, record_property):
    def cycles(count):
        for _ in range(count):
            cycle(dataset, tmp_path / "checkpoint")

    cycles(WARM_UP)
    memory, others = resident(), held()
    count = at_scale(300, 10_000)
    cycles(count)
    grown = resident() - memory - LEFT_BY_OTHERS.get(cycle.__name__, 0) * count
    record_property("grown_bytes", grown)
    print(f"{cycle.__name__}: {count} cycles, {grown} bytes")  # noqa: T201
    assert grown < 1 << 20
    assert all(now <= before for now, before in zip(held(), others, strict=True))
