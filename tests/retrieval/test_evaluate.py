"""Evaluation of a model whose recommendations are known, on a real dataset folder."""

import numpy as np
import pytest
import torch

from remi_fast.errors import DataError
from remi_fast.retrieval import evaluate as module
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.retrieval.search import search


class MostPopular:
    """Ranks items by index, that is by popularity; records the histories it is shown."""

    max_history = 5

    def __init__(self, num_items):
        self.num_items = num_items
        self.histories = []

    def rows(self, start, end):
        return -torch.arange(start, min(end, self.num_items), dtype=torch.float32)[:, None]

    def read(self, ids):
        return -ids[:, None].float()

    def interests(self, history, length):
        self.histories += [row[:n].tolist() for row, n in zip(history, length, strict=True)]
        return torch.ones(len(history), 2, 1)


def by_hand(dataset, split, k, exclude_seen=False):
    recalls = []
    for start, cut, end in dataset.eval_split(split).spans:
        past, targets = dataset.items[start:cut], dataset.items[cut:end]
        hidden = set(past.tolist()) if exclude_seen else set()
        top = [i for i in range(1, dataset.num_items) if i not in hidden][:k]
        recalls.append(len(set(targets.tolist()) & set(top)) / len(targets))
    return np.mean(recalls)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("at_once", [4, 1024])
def test_by_hand(monkeypatch, dataset, split, exclude_seen, at_once):
    monkeypatch.setattr(module, "USERS_AT_ONCE", at_once)
    model = MostPopular(dataset.num_items)
    got = evaluate(model, dataset, split, ks=(3, 20), exclude_seen=exclude_seen)
    assert got["users"] == len(dataset.eval_split(split))
    for k in (3, 20):
        assert got[f"recall@{k}"] == pytest.approx(by_hand(dataset, split, k, exclude_seen))
    spans = dataset.eval_split(split).spans
    assert model.histories == [dataset.items[max(s, c - 5) : c].tolist() for s, c, _ in spans]


def test_no_more_is_searched_than_is_shown(dataset, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        module, "search", lambda *arguments: sizes.append(arguments[2]) or search(*arguments)
    )
    model = MostPopular(dataset.num_items)
    evaluate(model, dataset, "valid", ks=(3, 7))
    list(module.blocks(model, dataset, "valid", 7, per_interest=True))
    assert sizes == [7, 14]


def test_sample_of_users(dataset):
    model = MostPopular(dataset.num_items)
    assert evaluate(model, dataset, "valid", max_users=7)["users"] == 7
    assert len(model.histories) == 7


def test_unknown_or_empty_split(dataset, monkeypatch):
    model = MostPopular(dataset.num_items)
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        evaluate(model, dataset, "tset")
    empty = type(dataset.eval_split("test"))(np.empty(0, np.int32), np.empty((0, 3), np.int64))
    monkeypatch.setattr(dataset, "eval_split", lambda name: empty)
    with pytest.raises(DataError, match="the test split has no users"):
        evaluate(model, dataset, "test")
