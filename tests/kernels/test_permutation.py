"""Keyed permutations: bijections, alike in Python and C++, close to uniform."""

import numpy as np
import pytest

from remi_fast.kernels.native import C
from remi_fast.kernels.permutation import permute


@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 1000, 4097])
def test_bijection_the_same_in_cpp(n):
    for seed, step in ((0, 0), (1, 5), (2**64 - 1, 2**32 - 1)):
        image = permute(np.arange(n), n, seed=seed, step=step)
        assert sorted(image.tolist()) == list(range(n))
        assert (C.permute(np.arange(n), n, seed, step) == image).all()


def test_huge():
    n = 2**62
    index = np.array([0, 1, 2**61, n - 1])
    image = permute(index, n, seed=3, step=1)
    assert len(set(image.tolist())) == 4 and image.min() >= 0 and image.max() < n
    assert (C.permute(index, n, 3, 1) == image).all()


def test_seeds_and_steps_give_other_permutations():
    images = {
        tuple(permute(np.arange(50), 50, seed=seed, step=step).tolist())
        for seed in range(20)
        for step in range(20)
    }
    assert len(images) == 400


@pytest.mark.parametrize("n", [5, 16, 100])
def test_where_two_elements_go_is_nearly_uniform(n):
    """Chi-square over the ordered pairs (image of 0, image of 1) of many permutations."""
    draws = 60 * n * (n - 1) if n < 50 else 10_000
    pairs = np.array([C.permute(np.array([0, 1]), n, 11, step) for step in range(draws)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for column in pairs.T:
        counts = np.bincount(column, minlength=n)
        chi2 = ((counts - len(pairs) / n) ** 2 / (len(pairs) / n)).sum()
        assert chi2 < n - 1 + 6 * np.sqrt(2 * n)
    if n < 50:
        counts = np.bincount(pairs[:, 0] * n + pairs[:, 1], minlength=n * n)
        expected = len(pairs) / (n * (n - 1))
        counts = counts[[i * n + j for i in range(n) for j in range(n) if i != j]]
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < len(counts) + 6 * np.sqrt(2 * len(counts))


@pytest.mark.parametrize("index, n", [([5], 5), ([-1], 5), ([0], 0), ([0], 2**62 + 1)])
def test_refusals(index, n):
    with pytest.raises(ValueError, match="(n|index): got .*, expected (a number|numbers) in"):
        permute(index, n, seed=0, step=0)
