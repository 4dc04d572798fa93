"""Gather, catch-up and update of one step's rows, warm: DeferredAdam, torch's Adam, SparseAdam,
FBGEMM where it is installed.

At 10 M rows dense Adam needs 10 GiB of memory. Correctness first: `bench.update_in_turns` has the
check, and the ratios.
"""

import pytest
import torch

from bench import fbgemm_peer
from bench.update_contestants import Update, contestants
from bench.update_in_turns import DEVICE, check, check_fbgemm
from remi_fast.training.trainer import set_threads

UPDATES = [
    Update(items, batch, ids, DEVICE)
    for items in (100_000, 368_000, 1_000_000, 10_000_000)
    for batch in (128, 1024, 8192)
    for ids in ("uniform", "zipf")
]
# The peers do not depend on how ids are drawn, nor dense Adam on how many there are.
CASES = [
    pytest.param(update, name, id=f"{update}-{name}")
    for update in UPDATES
    for name in contestants(update)
    if name == "DeferredAdam" or (update.ids == "uniform" and update.batch == 128)
]


@pytest.fixture(scope="module", autouse=True)
def correct():
    set_threads(0)
    assert check() < 1e-4
    assert fbgemm_peer.unavailable() or check_fbgemm() < 1e-3


@pytest.mark.parametrize("update, name", CASES)
def test_update(benchmark, update, name):
    benchmark.group = f"update-{update}"
    step = contestants(update)[name]()

    def run():
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    rounds = 5 if "dense" in name else 50
    benchmark.pedantic(run, rounds=rounds, iterations=1, warmup_rounds=2)
