"""Batches per second: the C++ loader, torch's DataLoader over vectorised NumPy, a Python iterator;
with a GPU the batches drawn there, too.

One round makes BATCHES batches of 128 samples with histories of 20 from 10 M interactions.
"""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from bench.batches_in_turns import drawn
from remi_fast.benchmark.generated import sequences, spans
from remi_fast.benchmark.peers import python_iterator
from remi_fast.data.loader import BatchLoader

BATCH, HISTORY = 128, 20
DRAWS = 1000  # of a CUDA graph


class NumpyBatches(IterableDataset):
    """Uniform users and positions, a whole batch at a time, the best NumPy can do."""

    def __init__(self, items, offsets):
        self.items, self.offsets = items, offsets

    def __iter__(self):
        generator = np.random.default_rng(torch.initial_seed() % 2**32)
        start, length = self.offsets[:-1], np.diff(self.offsets)
        column = np.arange(HISTORY)
        while True:
            user = generator.integers(len(length), size=BATCH)
            place = generator.integers(4, length[user])
            taken = np.minimum(place, HISTORY)
            first = (start[user] + place - taken)[:, None]
            inside = column < taken[:, None]
            history = np.where(inside, self.items[np.where(inside, first + column, 0)], 0)
            yield history, taken, self.items[start[user] + place], user


@pytest.fixture(scope="module")
def data():
    items, offsets = sequences(num_users=650_000, num_items=368_000, mean_length=15)
    assert len(items) > 9_500_000
    return items, offsets


def take(iterator, batches):
    for _ in range(batches):
        next(iterator)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_remi_fast(benchmark, data, sampling, threads):
    items, offsets = data
    benchmark.group = "loader"
    benchmark.extra_info["samples_per_round"] = 2000 * BATCH
    with BatchLoader(
        items,
        *spans(offsets),
        batch_size=BATCH,
        max_history=HISTORY,
        seed=1,
        sampling=sampling,
        threads=threads,
        ring=16,
    ) as loader:
        benchmark.pedantic(take, (loader, 2000), rounds=10, warmup_rounds=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch_size", [BATCH, 1024, 8192])
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_drawn_on_the_gpu(benchmark, data, sampling, batch_size):
    """A CUDA graph of DRAWS batches, each with the kernel that counts the step."""
    items, offsets = data
    benchmark.group = "loader"
    benchmark.extra_info["samples_per_round"] = DRAWS * batch_size
    replay = drawn((items, *spans(offsets)), batch_size, sampling, DRAWS)

    def run():
        replay()
        torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_dataloader_over_numpy(benchmark, data, workers):
    benchmark.group = "loader"
    benchmark.extra_info["samples_per_round"] = 200 * BATCH
    loader = iter(DataLoader(NumpyBatches(*data), batch_size=None, num_workers=workers))
    benchmark.pedantic(take, (loader, 200), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("matrices", [False, True], ids=["histories", "histories-and-LxL"])
def test_python_iterator(benchmark, data, matrices):
    items, offsets = data
    benchmark.group = "loader"
    benchmark.extra_info["samples_per_round"] = 5 * BATCH
    histories = [
        items[a:b].tolist() for a, b in zip(offsets[:50_000], offsets[1:50_001], strict=True)
    ]
    iterator = python_iterator(histories, BATCH, HISTORY, matrices=matrices)
    benchmark.pedantic(take, (iterator, 5), rounds=3, warmup_rounds=1)
