"""Gather, catch-up and update of one step's rows, warm: DeferredAdam, torch's Adam, SparseAdam,
FBGEMM where it is installed.

At 10 M rows dense Adam needs 10 GiB of memory. Correctness first; ratios: `remi-fast bench update`.
"""

import pytest
import torch

from remi_fast.benchmark import fbgemm_peer
from remi_fast.benchmark.update import check, check_fbgemm
from remi_fast.benchmark.update_contestants import DEFERRED, Update, contestants
from remi_fast.cli.bench.common import device_for
from remi_fast.training.trainer import set_threads

DEVICE = device_for().type
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
    if name == DEFERRED or (update.ids == "uniform" and update.batch == 128)
]


@pytest.fixture(scope="module", autouse=True)
def correct():
    set_threads(0)
    check(DEVICE)
    if fbgemm_peer.unavailable() is None:
        check_fbgemm(DEVICE)


@pytest.mark.parametrize("update, name", CASES)
def test_update(benchmark, update, name):
    benchmark.group = f"update-{update}"
    contestant = contestants(update)[name]()
    benchmark.extra_info["steps"] = contestant.steps  # of a call

    def run():
        contestant.run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    rounds = 5 if "dense" in name else 50
    benchmark.pedantic(run, rounds=rounds, iterations=1, warmup_rounds=2)
