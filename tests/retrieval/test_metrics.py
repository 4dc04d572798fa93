"""Metrics against torchmetrics, and against hand-made cases where definitions differ."""

import itertools

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
)

from remi_fast.retrieval.metrics import (
    ListCounts,
    diversity,
    gini,
    ranking_metrics,
    relevance,
    self_information,
)

ITEMS = 120


def random_case(seed, users=30):
    generator = np.random.default_rng(seed)
    # from 1 on: torchmetrics takes a score of 0 for "not retrieved"
    scores = 1.0 + np.stack([generator.permutation(ITEMS - 1) for _ in range(users)])
    targets = [
        generator.choice(np.arange(1, ITEMS), generator.integers(1, 70), replace=False)
        for _ in range(users)
    ]
    ranked = 1 + np.argsort(-scores, axis=1)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in targets])])
    return scores, ranked, targets, np.concatenate(targets), offsets


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 20, 50, ITEMS - 1])
def test_against_torchmetrics(seed, k):
    scores, ranked, targets, flat, offsets = random_case(seed)
    got = ranking_metrics(ranked, flat, offsets, (k,))
    functions = {
        "recall": retrieval_recall,
        "hit_rate": retrieval_hit_rate,
        "ndcg": retrieval_normalized_dcg,
    }
    for name, function in functions.items():
        expected = []
        for row, mine in zip(scores, targets, strict=True):
            relevant = np.zeros(ITEMS - 1, dtype=np.int64)
            relevant[mine - 1] = 1
            value = function(torch.tensor(row), torch.tensor(relevant), top_k=k)
            expected.append(value.item())
        np.testing.assert_allclose(got[f"{name}@{k}"], expected, rtol=1e-5, err_msg=name)


def test_repeated_targets_count_in_the_recall_but_not_in_the_ideal():
    ranked = np.array([[3, 1, 2, 9]])
    got = ranking_metrics(ranked, np.array([1, 1, 7]), np.array([0, 3]), (2, 4))
    assert got["recall@2"][0] == pytest.approx(1 / 3)  # as published: one hit of three targets
    ideal = 1 + 1 / np.log2(3)  # two distinct targets
    assert got["ndcg@4"][0] == pytest.approx((1 / np.log2(3)) / ideal)
    assert got["hit_rate@2"][0] == 1


def test_filled_up_places_are_no_hits_and_users_do_not_mix():
    ranked = np.array([[5, 0, 0], [6, 5, 0]])
    hits = relevance(ranked, np.array([6, 5, 6]), np.array([0, 1, 3]))
    assert hits.tolist() == [[False, False, False], [True, True, False]]


def test_diversity_by_hand():
    categories = np.array([-1, 7, 7, 8, 9, 7])
    ranked = np.array([[1, 2, 3, 5], [4, 0, 0, 0], [0, 0, 0, 0], [3, 4, 1, 0]])
    got = diversity(categories, ranked, (1, 2, 3, 4, 9))
    assert got["diversity@1"].tolist() == [0, 0, 0, 0]
    assert got["diversity@2"].tolist() == [0, 0, 0, 1]
    assert got["diversity@3"].tolist() == pytest.approx([2 / 3, 0, 0, 1])
    assert got["diversity@4"].tolist() == pytest.approx([3 / 6, 0, 0, 1])
    assert (got["diversity@9"] == got["diversity@4"]).all()


@pytest.mark.parametrize("seed", range(3))
def test_diversity_counts_all_pairs(seed):
    generator = np.random.default_rng(seed)
    categories = generator.integers(-2, 4, 60)
    ranked = np.stack([generator.permutation(60) for _ in range(8)])[:, :12]
    got = diversity(categories, ranked, (5, 12))
    for row, ids in enumerate(ranked):
        for k in (5, 12):
            top = [i for i in ids[:k] if i > 0]
            pairs = [categories[a] != categories[b] for a, b in itertools.combinations(top, 2)]
            assert got[f"diversity@{k}"][row] == pytest.approx(np.mean(pairs))


def test_gini():
    assert gini(np.array([3, 3, 3])) == 0 and gini(np.zeros(4, int)) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    counts = np.array([1, 5, 2, 9, 0])
    gaps = np.abs(counts[:, None] - counts).mean()
    assert gini(counts) == pytest.approx(gaps / (2 * counts.mean()))


def test_coverage_and_novelty_of_lists_in_parts():
    lists = ListCounts((1, 3), 5)
    lists.add(np.array([[1, 2, 3], [1, 3, 0]]))
    lists.add(np.array([[2, 1, 0]]))
    information = self_information(np.array([0, 8, 4, 4, 0]))
    assert information[1:].tolist() == [1, 2, 2, 4]  # never seen: as if once
    got = lists.metrics(information)
    assert got["coverage@1"] == 2 / 4 and got["coverage@3"] == 3 / 4
    assert got["novelty@1"] == pytest.approx((1 + 1 + 2) / 3)
    assert got["novelty@3"] == pytest.approx((1 + 2 + 2 + 1 + 2 + 2 + 1) / 7)
    assert got["gini@3"] == pytest.approx(gini(np.array([3, 2, 2, 0])))
