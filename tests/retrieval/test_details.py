"""Everything that one pass gives, against plain loops over the users."""

import numpy as np
import pytest
import torch

from remi_fast.retrieval import evaluate as module
from remi_fast.retrieval.details import (
    evaluate_in_detail,
    history_groups,
    per_user,
    popularity_groups,
)
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.retrieval.metrics import ranking_metrics
from tests.retrieval.test_diversity import plain as plain_list

KS = (3, 20)


class Model:
    """Random vectors; two interests made of the last items."""

    max_history = 5

    def __init__(self, num_items):
        self.num_items = num_items
        self.weight = torch.randn(num_items, 4, generator=torch.Generator().manual_seed(0))

    def rows(self, start, end):
        return self.weight[start:end]

    def interests(self, history, length):
        return self.weight[history[:, :2]]


@pytest.fixture(params=[7, 1024])
def model(request, dataset, monkeypatch):
    monkeypatch.setattr(module, "USERS_AT_ONCE", request.param)
    return Model(dataset.num_items)


@pytest.fixture
def counts(dataset):
    spans = [dataset.items[start:end] for start, end in dataset.train_spans]
    return np.bincount(np.concatenate(spans), minlength=dataset.num_items)


def users_of(dataset, model):
    """Scores of all items, best first, their ids, and the targets, of each test user."""
    for start, cut, end in dataset.eval_split("test").spans:
        history = torch.from_numpy(dataset.items[max(start, cut - 5) : cut].astype(np.int64))
        scores = (model.weight[history[:2]] @ model.weight[1:].T).amax(0)
        scores, order = scores.sort(descending=True, stable=True)
        yield cut - start, scores, order + 1, dataset.items[cut:end].astype(np.int64)


def metrics_of(ids, targets):
    ids = np.asarray(ids)[None]
    values = ranking_metrics(ids, np.asarray(targets), np.array([0, len(targets)]), KS)
    return {name: value[0] for name, value in values.items()}


def means(rows):
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


def test_the_metrics_of_evaluate_to_the_bit(dataset, model, counts):
    expected = evaluate(model, dataset, "test", ks=KS)
    got = evaluate_in_detail(model, dataset, "test", training_counts=counts, ks=KS)
    assert {name: got["metrics"][name] for name in expected} == expected
    assert got["diversity"] == [] and "diversity@3" not in got["metrics"]
    values = per_user(model, dataset, "test", ks=KS)
    assert [len(each) for each in values.values()] == [expected["users"]] * 6
    for name, each in values.items():
        assert each.mean() == pytest.approx(expected[name])


def test_diversity_by_hand(dataset, model, counts):
    kinds = np.arange(dataset.num_items) % 5
    coefficients = [0.0, 0.3, 50.0]
    got = evaluate_in_detail(
        model,
        dataset,
        "test",
        training_counts=counts,
        categories=kinds,
        coefficients=coefficients,
        ks=KS,
    )
    assert [row.pop("coefficient") for row in got["diversity"]] == coefficients
    for coefficient, row in zip(coefficients, got["diversity"], strict=True):
        rows = []
        for _, scores, ids, targets in users_of(dataset, model):
            scores, ids = scores[:40], ids[:40]  # K times the longest list
            places = plain_list(scores[None], torch.from_numpy(kinds)[ids][None], 20, coefficient)
            chosen = ids[places[0]].tolist()
            mine = metrics_of(chosen, targets)
            for k in KS:
                pairs = [kinds[a] != kinds[b] for a in chosen[:k] for b in chosen[:k] if a != b]
                mine[f"diversity@{k}"] = np.mean(pairs)
            rows.append(mine)
        assert row.pop("users") == len(rows)
        assert row == pytest.approx(means(rows))
    plain = {name: got["metrics"][name] for name in got["diversity"][0]}
    assert plain == got["diversity"][0]


def test_groups_by_hand(dataset, model, counts):
    found = evaluate_in_detail(model, dataset, "test", training_counts=counts, ks=KS)
    users = list(users_of(dataset, model))
    shown = 0
    for name, got in found["groups"]["history"].items():
        low, high = (int(name.split()[i]) for i in (0, -2))
        rows = [metrics_of(ids, t) for length, _, ids, t in users if low <= length <= high]
        assert got.pop("users") == len(rows)
        assert got == pytest.approx(means(rows))
        shown += len(rows)
    assert shown == len(users) and len(found["groups"]["history"]) > 1
    groups = popularity_groups(counts)
    for name, got in found["groups"]["popularity"].items():
        mine = [(ids, [t for t in targets if groups[name][t]]) for _, _, ids, targets in users]
        rows = [metrics_of(ids, targets) for ids, targets in mine if targets]
        assert got.pop("users") == len(rows)
        assert got == pytest.approx(means(rows))


def test_history_groups_of_equal_lengths(dataset, monkeypatch):
    spans = np.array([[0, 3, 4]] * 6 + [[0, 5, 6]], dtype=np.int64)
    split = type(dataset.eval_split("test"))(np.arange(7, dtype=np.int32), spans)
    monkeypatch.setattr(dataset, "eval_split", lambda name: split)
    got = {name: mask.tolist() for name, mask in history_groups(dataset, "test")(spans)}
    assert got == {"3 items": [True] * 6 + [False], "4 to 5 items": [False] * 6 + [True]}


def test_popularity_groups_hold_a_third_of_the_interactions():
    groups = popularity_groups(np.array([0, 1, 5, 1, 4, 0, 3, 1]))
    names = {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()}
    assert names == {"head": [2], "mid": [4, 6], "tail": [1, 3, 5, 7]}  # 5, 7 and 3 of 15


def test_coefficients_need_categories(dataset, model, counts):
    with pytest.raises(ValueError, match="categories: got None"):
        evaluate_in_detail(model, dataset, "test", training_counts=counts, coefficients=[0.1])
