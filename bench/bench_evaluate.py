"""Exact search over the catalogue, merged over interests: 1,024 users, top 50."""

import pytest
import torch

from remi_fast.models.item_table import ItemTable
from remi_fast.retrieval.search import search
from remi_fast.training.trainer import set_threads


@pytest.mark.parametrize("num_items", [17_000, 368_000])
def test_search(benchmark, num_items):
    benchmark.group = "search"
    set_threads(0)
    table = ItemTable(num_items, 64)
    interests = torch.randn(1024, 4, 64)
    benchmark.pedantic(lambda: search(interests, table, 50), rounds=3, warmup_rounds=1)
