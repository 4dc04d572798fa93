"""Metrics against torchmetrics, and against hand-made cases where definitions differ."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
)

from remi_fast.retrieval.metrics import ranking_metrics, relevance

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
