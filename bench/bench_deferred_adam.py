"""Gather, catch-up and update of one step's rows: DeferredAdam, torch's dense Adam, SparseAdam.

d = 64; the rows of a step at batch 128: 128 histories of 20, 128 targets, 1,280 negatives. Each
contestant gathers, is given the same gradients and updates. SparseAdam is not Adam: it skips what
the other two do to idle rows. At 10 M rows the dense ones need 10 GiB of memory.
"""

import pytest
import torch

from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam
from remi_fast.training.trainer import set_threads

DIM, BATCH, HISTORY, NEGATIVES = 64, 128, 20, 1280
SIZES = [368_000, 10_000_000]


def streams(num_items, count=64):
    """Ids of `count` steps: long-tailed histories and targets, uniform negatives."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    for _ in range(count):
        unit = torch.rand(BATCH * (HISTORY + 1), generator=generator)
        popular = (unit * torch.log(torch.tensor(float(num_items - 1)))).exp().long()
        negatives = torch.randint(1, num_items, (NEGATIVES,), generator=generator)
        steps.append(torch.cat([popular.clamp(1, num_items - 1), negatives]))
    return steps


GRADIENTS = torch.randn(BATCH * (HISTORY + 1) + NEGATIVES, DIM) * 1e-3


def in_turn(benchmark, step, ids, rounds):
    turn = iter(range(10**9))
    benchmark.pedantic(lambda: step(ids[next(turn) % len(ids)]), rounds=rounds, warmup_rounds=3)


@pytest.mark.parametrize("num_items", SIZES)
def test_deferred_adam(benchmark, num_items):
    benchmark.group = f"update-{num_items}"
    set_threads(0)
    table = ItemTable(num_items, DIM)
    optimizer = DeferredAdam(table)

    def step(ids):
        table(ids).backward(GRADIENTS)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):  # so that there is something to catch up with
        for ids in streams(num_items):
            step(ids)
    in_turn(benchmark, step, streams(num_items), rounds=300)


@pytest.mark.parametrize("num_items", SIZES)
@pytest.mark.parametrize("kind", ["fused", "foreach", "default"])
def test_torch_dense_adam(benchmark, num_items, kind):
    if num_items > 10**6 and kind == "default":
        pytest.skip("as `foreach` at this size, only slower")
    benchmark.group = f"update-{num_items}"
    embedding = torch.nn.Embedding(num_items, DIM)
    chosen = {"fused": True} if kind == "fused" else {"foreach": kind == "foreach"}
    optimizer = torch.optim.Adam(embedding.parameters(), **chosen)

    def step(ids):
        optimizer.zero_grad()
        embedding(ids).backward(GRADIENTS)
        optimizer.step()

    in_turn(benchmark, step, streams(num_items), rounds=10 if num_items < 10**6 else 3)


@pytest.mark.parametrize("num_items", SIZES)
def test_torch_sparse_adam(benchmark, num_items):
    benchmark.group = f"update-{num_items}"
    embedding = torch.nn.Embedding(num_items, DIM, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters())

    def step(ids):
        optimizer.zero_grad()
        embedding(ids).backward(GRADIENTS)
        optimizer.step()

    in_turn(benchmark, step, streams(num_items), rounds=20)
