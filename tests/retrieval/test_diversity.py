"""The vectorised greedy list against a plain one, and its limits."""

import math

import pytest
import torch

from remi_fast.retrieval.diversity import candidates_for, diversify


def plain(scores, categories, k, coefficient):
    """Algorithm 1 of ComiRec, one user after the other."""
    lists = []
    for row, kinds in zip(scores.tolist(), categories.tolist(), strict=True):
        chosen = []
        for _ in range(k):
            best, most = None, None
            for i, score in enumerate(row):
                if i in chosen:
                    continue
                worth = score - coefficient * sum(kinds[i] == kinds[j] for j in chosen)
                if best is None or worth > most:
                    best, most = i, worth
            chosen.append(best)
        lists.append(chosen)
    return torch.tensor(lists)


def make(users=6, candidates=20, kinds=4, seed=0, whole=False):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(users, candidates, generator=generator)
    if whole:  # many equal scores
        scores = (2 * scores).round()
    categories = torch.randint(kinds, (users, candidates), generator=generator)
    return scores.sort(1, descending=True).values, categories


@pytest.mark.parametrize("coefficient", [0, 0.05, 0.5, 1, 1e6, 1e30])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_against_a_plain_loop(coefficient, whole, seed):
    scores, categories = make(seed=seed, whole=whole)
    for k in (1, 7, 20):
        expected = plain(scores, categories, k, coefficient)
        assert torch.equal(diversify(scores, categories, k, coefficient), expected)


def test_worth_is_that_of_the_paper():
    """The first choices by score + coefficient * pairs that differ, written out."""
    scores = torch.tensor([[1.0, 0.9, 0.8, 0.1]])
    categories = torch.tensor([[5, 5, 5, 9]])
    assert diversify(scores, categories, 3, 0.79).tolist() == [[0, 1, 3]]  # 0.9 > 0.1 + 0.79
    assert diversify(scores, categories, 3, 0.81).tolist() == [[0, 3, 1]]  # 0.9 < 0.1 + 0.81


def test_a_coefficient_below_the_precision_of_the_scores_decides_between_equal_ones():
    scores, categories = torch.ones(1, 3), torch.tensor([[4, 4, 6]])
    assert diversify(scores, categories, 2, 1e-9).tolist() == [[0, 2]]


@pytest.mark.parametrize("kinds", ["none", "one", "all distinct"])
def test_plain_top_k_where_nothing_can_be_weighed(kinds):
    scores, categories = make()
    if kinds == "one":
        categories = torch.full_like(categories, 3)
    elif kinds == "all distinct":
        categories = torch.arange(20).expand(6, -1)
    got = diversify(scores, categories, 8, 0 if kinds == "none" else 0.7)
    assert torch.equal(got, torch.arange(8).expand(6, -1))


@pytest.mark.parametrize("coefficient", [0, 0.3, 1e30])
def test_users_with_fewer_candidates(coefficient):
    scores, categories = make(users=3, candidates=6)
    scores[1, 2:] = -torch.inf
    scores[2] = -torch.inf
    got = diversify(scores, categories, 5, coefficient)
    assert torch.equal(got[:1], plain(scores[:1], categories[:1], 5, coefficient))
    assert sorted(got[1, :2].tolist()) == [0, 1] and got[1, 2:].tolist() == [2, 3, 4]
    assert got[2].tolist() == [0, 1, 2, 3, 4]


def test_arguments_stay_as_they_are():
    scores, categories = make()
    before = scores.clone(), categories.clone()
    diversify(scores, categories, 4, 0.5)
    assert torch.equal(scores, before[0]) and torch.equal(categories, before[1])


def test_a_large_coefficient_shows_every_category_first():
    scores, categories = make(kinds=4, seed=1)
    for row, kinds in zip(diversify(scores, categories, 4, 100.0), categories, strict=True):
        assert len(kinds[row].unique()) == len(kinds.unique())


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 1e31])
def test_coefficients_out_of_range(value):
    with pytest.raises(ValueError, match=r"diversity: got .* expected 0 to 1e\+30"):
        diversify(*make(), 4, value)


def test_other_bad_arguments():
    scores, categories = make()
    for value in ("0.1", True, None):
        with pytest.raises(TypeError, match="diversity: got .* expected a number"):
            diversify(scores, categories, 4, value)
    for k in (0, 21):
        with pytest.raises(ValueError, match=f"k: got {k}, expected 1 to the 20 candidates"):
            diversify(scores, categories, k, 0.1)
    with pytest.raises(ValueError, match=r"got shape \(6, 3\), expected .* \(6, 20\)"):
        diversify(scores, categories[:, :3], 4, 0.1)


def test_as_many_candidates_as_the_interests_list():
    assert candidates_for(50, 4, 10**6) == 200
    assert candidates_for(50, 4, 100) == 99
