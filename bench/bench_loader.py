"""Batches of 128 samples with histories of 20 from 10 M interactions: the C++ loader, torch's
DataLoader over vectorised NumPy, the published iterator; with a GPU those drawn there. Correctness
first; ratios: `remi-fast bench loader`.
"""

import pytest
import torch

from remi_fast.benchmark.loader import contestants
from remi_fast.benchmark.steps import Data
from remi_fast.cli.bench.common import NUM_ITEMS, device_for
from remi_fast.training.trainer import set_threads

BATCH, USERS, DEVICE = 128, 650_000, device_for()
NAMES = contestants(None, BATCH, DEVICE, "all")


@pytest.fixture(scope="module")
def data():
    set_threads(0)
    found = Data(NUM_ITEMS, USERS)
    assert len(found.items) > 9_500_000
    return found


@pytest.mark.parametrize("name", NAMES)
def test_batches(benchmark, data, name):
    benchmark.group = "loader"
    contestant = contestants(data, BATCH, DEVICE, "all")[name]()
    benchmark.extra_info["samples_per_round"] = contestant.steps * BATCH

    def run():
        contestant.run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=10, warmup_rounds=2)
