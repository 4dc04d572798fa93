"""Exact search over the catalogue, merged over interests: 1,024 users, top 50."""

import pytest
import torch

from bench.search_in_turns import by_faiss, generated, products
from remi_fast.retrieval.faiss_index import build, load_faiss
from remi_fast.retrieval.search import search
from remi_fast.training.trainer import set_threads

CONTESTANTS = ("remi-fast", "faiss IndexFlatIP, merged", "torch.mm of the scores alone")


@pytest.mark.parametrize("num_items", [17_000, 368_000])
@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_search(benchmark, num_items, contestant):
    benchmark.group = f"search {num_items}"
    set_threads(0)
    load_faiss().omp_set_num_threads(torch.get_num_threads())
    interests, table = generated(1024, num_items)
    flat = build(table, "Flat")
    run = {
        "remi-fast": lambda: search(interests, table, 50),
        "faiss IndexFlatIP, merged": lambda: by_faiss(flat, interests),
        "torch.mm of the scores alone": lambda: products(interests, table),
    }[contestant]
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
