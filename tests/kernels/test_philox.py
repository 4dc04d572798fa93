"""Philox against the published known answers, and C++ against Python bit for bit."""

import numpy as np
import pytest

from remi_fast.kernels import philox

# Random123 (Salmon et al.), kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
KNOWN = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text):
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(counter, key, answer):
    assert (philox.philox(words(counter)[None], words(key))[0] == words(answer)).all()


def test_counter_and_key_hold_what_is_documented():
    seed = 0x299F31D0A4093822
    got = philox.random_words([0x243F6A88], 0x85A308D3, 0x13198A2E, seed)[0]
    counter = words("243f6a88 85a308d3 13198a2e 00000000")
    assert (got == philox.philox(counter[None], words("a4093822 299f31d0"))[0]).all()


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1])
@pytest.mark.parametrize("step", [0, 7, 2**32 - 1])
def test_cpp_draws_the_same_words(seed, step):
    index = np.array([0, 1, 2, 1000, 2**31, 2**32 - 1])
    for stream in (0, 5, 2**32 - 1):
        counter = [[i, step, stream, 0] for i in index.tolist()]
        exact = philox.philox(counter, philox.seed_key(seed))
        assert (philox.random_words(index, step, stream, seed) == exact).all()
        assert (philox.random_words(index[::2], step, stream, seed) == exact[::2]).all()


def test_streams_are_distinct():
    streams = [value for name, value in vars(philox).items() if name.isupper() and name[0] != "_"]
    assert len(streams) > 10 and len(set(streams)) == len(streams)


def test_bounded_edges():
    lowest, highest = np.zeros((1, 4), np.uint32), np.full((1, 4), 2**32 - 1, np.uint32)
    for n in (1, 2, 3, 1000, 2**31, 2**32 - 1):
        assert philox.bounded(lowest, n) == [0] and philox.bounded(highest, n) == [n - 1]


def test_bounded_is_the_high_part_of_the_product():
    drawn = philox.random_words(np.arange(500), 3, 0, 9)
    for n in (2, 1000, 2**31 - 1, 2**32 - 1):
        exact = [((int(w[1]) << 32 | int(w[0])) * n) >> 64 for w in drawn]
        assert philox.bounded(drawn, n).tolist() == exact


def test_uniform():
    n, draws = 37, 40_000
    counts = np.bincount(philox.bounded(philox.random_words(np.arange(draws), 0, 2, 5), n))
    chi2 = ((counts - draws / n) ** 2 / (draws / n)).sum()
    assert 12 < chi2 < 75  # 36 degrees of freedom, far into both tails


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([-1], 0, 0, 0), "index: got .*, expected numbers in"),
        (([2**32], 0, 0, 0), "index: got .*, expected numbers in"),
        (([0], 2**32, 0, 0), "step: got .*, expected a number in"),
        (([0], 0, 0, -1), "seed: got .*, expected a number in"),
        (([0], 0, 0, 2**64), "seed: got .*, expected a number in"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        philox.random_words(*arguments)
    with pytest.raises(ValueError, match="n: got .*, expected numbers in"):
        philox.bounded(np.zeros((1, 4), np.uint32), 0)
