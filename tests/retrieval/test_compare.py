"""The paired bootstrap: its draws, its interval on data whose truth is known, its limits."""

import numpy as np
import pytest

from remi_fast.errors import DataError
from remi_fast.kernels.philox import RESAMPLING, random_words
from remi_fast.retrieval.compare import compare


def generated(users, seed, shift=0.0):
    """Two models' values of the users, correlated, with a known difference of the means."""
    generator = np.random.default_rng(seed)
    base = generator.random(users)
    noise = generator.exponential(size=(2, users)) - 1  # skewed, of mean 0
    return {"m": base + shift + 0.3 * noise[0]}, {"m": base + 0.3 * noise[1]}


def by_hand(difference, resamples, seed):
    """Mean of every resample, one user after the other."""
    users, means = len(difference), []
    for resample in range(resamples):
        words = random_words(np.arange((users + 3) // 4), resample, RESAMPLING, seed).ravel()
        means.append(np.mean([difference[int(word) * users >> 32] for word in words[:users]]))
    return np.array(means)


@pytest.mark.parametrize("seed", [0, 5])
def test_by_hand(seed):
    first, second = generated(users=23, seed=1, shift=0.1)
    got = compare(first, second, resamples=200, seed=seed)["m"]
    means = by_hand(first["m"] - second["m"], 200, seed)
    assert got.first == first["m"].mean() and got.second == second["m"].mean()
    assert got.difference == pytest.approx(got.first - got.second)
    assert (got.low, got.high) == pytest.approx(np.quantile(means, [0.025, 0.975]))
    least = min((means <= 0).sum(), (means >= 0).sum())
    assert got.p == pytest.approx(min(1, 2 * (least + 1) / 201))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered, rejected, trials = 0, 0, 300
    for trial in range(trials):
        got = compare(*generated(80, seed=trial, shift=0.2), resamples=300, seed=trial)["m"]
        covered += got.low <= 0.2 <= got.high
        rejected += compare(*generated(80, seed=trial), resamples=300, seed=trial)["m"].p <= 0.05
    assert 0.91 <= covered / trials <= 0.98  # 0.95 +- three standard deviations, and skew
    assert 0.02 <= rejected / trials <= 0.09


def test_identical_runs_do_not_differ():
    first, _ = generated(50, seed=0)
    got = compare(first, first, resamples=100)["m"]
    assert got[2:] == (0, 0, 0, 1)


def test_signs_and_pairing():
    first, second = generated(400, seed=0, shift=0.2)
    better, worse = compare(first, second)["m"], compare(second, first)["m"]
    assert 0 < better.low < better.difference < better.high and better.p == 2 / 10_001
    assert worse.low < worse.difference < worse.high < 0
    assert (worse.difference, worse.p) == (-better.difference, better.p)
    shuffled = {"m": np.random.default_rng(1).permutation(second["m"])}
    unpaired = compare(first, shuffled)["m"]
    assert unpaired.high - unpaired.low > better.high - better.low


def test_same_arguments_same_bits_and_metrics_on_their_own():
    first, second = generated(31, seed=0)
    both = [each | {"n": each["m"] ** 2} for each in (first, second)]
    got = compare(*both, resamples=50)
    assert got == compare(*both, resamples=50) != compare(*both, resamples=50, seed=1)
    assert got["m"] == pytest.approx(compare(first, second, resamples=50)["m"])


def test_bad_arguments():
    first, second = generated(4, seed=0)
    with pytest.raises(DataError, match=r"got users by metric \{'m': 4\} and \{'m': 3\}"):
        compare(first, {"m": second["m"][:3]})
    with pytest.raises(DataError, match="expected the same of both"):
        compare(first, {"n": second["m"]})
    with pytest.raises(DataError, match="at least one user"):
        compare({"m": np.empty(0)}, {"m": np.empty(0)})
    with pytest.raises(ValueError, match="resamples: got 0"):
        compare(first, second, resamples=0)
