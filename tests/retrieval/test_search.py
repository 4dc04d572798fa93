"""Exact search against brute force, and against the published merge of per-interest lists."""

import numpy as np
import pytest
import torch

from remi_fast.kernels.interest_search import interest_search
from remi_fast.retrieval import histories
from remi_fast.retrieval import search as module
from remi_fast.retrieval.search import MARGIN, search, settled
from tests.device import DEVICE


class Table:
    def __init__(self, weight):
        self.weight = weight
        self.num_items = len(weight)
        self.largest = 0

    def rows(self, start, end):
        self.largest = max(self.largest, end - start)
        return self.weight[start:end]

    def read(self, ids):
        return self.weight[ids]


def make(users=7, interests=3, items=40, dim=5, seed=0, whole=False):
    generator = torch.Generator().manual_seed(seed)
    interest, weight = (
        torch.randn(users, interests, dim, generator=generator),
        torch.randn(items, dim, generator=generator),
    )
    if whole:  # many equal scores
        interest, weight = interest.round(), weight.round()
    weight[0] = 100.0  # padding would win everywhere
    return interest, Table(weight)


def published_merge(interests, weight, k):
    """Each interest's top k of the catalogue; union, sorted by score, duplicates dropped."""
    found = []
    for user in interests:
        scores = user @ weight[1:].T
        pairs = []
        for row in scores:
            order = row.argsort(descending=True, stable=True)[:k]
            pairs += [(-row[i].item(), int(i) + 1) for i in order]
        ranked = []
        for _, item in sorted(pairs):
            if item not in ranked:
                ranked.append(item)
        found.append(ranked[:k])
    return torch.tensor(found)


@pytest.mark.parametrize("budget", [1, 64, 1000, 10**6])
@pytest.mark.parametrize("k", [1, 5, 39])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_published_merge(monkeypatch, budget, k, seed):
    monkeypatch.setattr(module, "VALUES_AT_ONCE", budget)
    interests, table = make(seed=seed)
    found = search(interests, table, k)
    assert torch.equal(found.ids, published_merge(interests, table.weight, k))
    for user in range(len(interests)):
        scores = interests[user] @ table.weight[found.ids[user]].T
        torch.testing.assert_close(found.scores[user], scores.amax(0))
        assert torch.equal(found.interest[user], scores.argmax(0))


@pytest.mark.parametrize("budget", [1, 64, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_are_ordered_by_id(monkeypatch, budget, seed):
    monkeypatch.setattr(module, "VALUES_AT_ONCE", budget)
    interests, table = make(seed=seed, whole=True)
    best = (interests @ table.weight[1:].T).amax(1)
    assert any(len(row.unique()) < len(row) for row in best), "no equal scores in this case"
    expected = best.argsort(dim=1, descending=True, stable=True)[:, :12] + 1
    assert torch.equal(search(interests, table, 12).ids, expected)


def test_memory_is_bounded_by_the_budget(monkeypatch):
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 21)
    interests, table = make()
    search(interests, table, 4)
    assert table.largest == 4


def test_seen_items_and_small_catalogues_fill_up_with_0():
    interests, table = make(users=2, items=6)
    seen = torch.tensor([[1, 3, 0], [5, 5, 2]])
    found = search(interests, table, 8, seen)
    for ids, hidden, left in zip(found.ids, seen, (3, 3), strict=True):
        real = ids[ids > 0]
        assert len(real) == left and not set(real.tolist()) & set(hidden.tolist())
        assert (ids[left:] == 0).all()
    assert (found.scores[found.ids == 0] == -torch.inf).all()


def near_ties(users=40, items=900, dim=16):
    """Items that come in fives which float32 can hardly tell apart."""
    interests, table = make(users, 3, items, dim)
    table.weight[1:] = table.weight[1:].repeat_interleave(5, dim=0)[: items - 1]
    table.weight[1:] *= 1 + 1e-7 * torch.rand(items - 1, 1, generator=torch.Generator())
    return interests, table


def test_other_products_find_the_same_items_once_float64_has_settled_it():
    interests, table = near_ties()
    there = Table(table.weight.to(DEVICE))
    exact = interests.double(), [table.weight[1:].double()]
    truth = interest_search(*exact, 20, backend="reference").ids
    pieces = table.weight[1:].split(100)
    native = interest_search(interests, pieces, 20 + MARGIN, backend="native")
    assert not torch.equal(native.ids[:, :20], truth), "no near-tie in this case"
    assert torch.equal(settled(native, interests, table, 20).ids, truth)
    on_device = [piece.to(DEVICE) for piece in pieces]
    tiled = interest_search(interests.to(DEVICE), on_device, 20 + MARGIN, backend="tiled")
    found = settled(tiled, interests.to(DEVICE), there, 20)
    assert torch.equal(found.ids.cpu(), truth) and found.scores.dtype == torch.float32
    if DEVICE == "cuda":
        assert torch.equal(search(interests.to(DEVICE), there, 20).ids, truth)


def test_nothing_is_settled_where_nothing_was_found():
    interests, table = make(users=2, items=6)
    table.weight[2] = torch.nan
    seen = torch.tensor([[1, 3, 0], [5, 5, 1]])
    found = interest_search(interests, [table.weight[1:]], 9, seen=seen, backend="tiled")
    found.ids[:, 3] = 2  # whoever retrieved that
    ids = settled(found, interests, table, 9).ids
    assert ids[0, :2].sort().values.tolist() == [4, 5] and ids[1, :2].sort().values.tolist() == [
        3,
        4,
    ]
    assert (ids[:, 2:] == 0).all()
    assert settled(found, interests, table, 5).interest[:, 2:].eq(0).all()


@pytest.mark.parametrize("most", [1, 2, 6, 50, 60, 61])
def test_an_even_sample_has_both_ends_and_nobody_twice(most):
    for count in range(1, 130):
        found = histories.even_sample(count, most).tolist()
        assert found == sorted(set(found)) and len(found) == min(count, most)
        assert found[0] == 0 and (most == 1 or found[-1] == count - 1)
    assert histories.even_sample(0, most).size == 0


def test_few_users_at_a_time_where_one_has_seen_much(monkeypatch):
    monkeypatch.setattr(histories, "ITEMS_AT_ONCE", 40)
    lengths = np.array([3, 1, 900, 2, 2, 2, 2, 2, 5])
    end = lengths.cumsum()
    found = list(histories.user_blocks(end - lengths, end, most=4))
    covered = [user for block in found for user in range(9)[block]]
    assert covered == list(range(9)), "a user twice, or never, or in another order"
    sizes = [len(range(9)[block]) for block in found]
    assert max(sizes) == 4 and found[0].stop == 2
    for block in found:
        alone = len(range(9)[block]) == 1
        assert alone or lengths[block].max() * (block.stop - block.start) <= 40
