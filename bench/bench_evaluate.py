"""Exact search over the catalogue, merged over interests: 1,024 users, top 50; correctness first.
Ratios: `remi-fast bench eval`."""

import pytest
import torch

from remi_fast.benchmark.search import contestants, generated
from remi_fast.cli.bench.common import device_for
from remi_fast.training.trainer import set_threads

USERS, K, DEVICE = 1024, 50, device_for()
NAMES = contestants(*(x.to(DEVICE) for x in generated(1, 100)), K, "all")


@pytest.mark.parametrize("num_items", [17_000, 368_000])
@pytest.mark.parametrize("name", NAMES)
def test_search(benchmark, num_items, name):
    benchmark.group = f"search {num_items}"
    set_threads(0)
    interests, table = (x.to(DEVICE) for x in generated(USERS, num_items))
    run = contestants(interests, table, K, "all")[name]().run

    def wait():
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(wait, rounds=3, warmup_rounds=1)
