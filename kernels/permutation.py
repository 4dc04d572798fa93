"""Keyed permutations of [0, n): the shuffle of users and targets, without a shuffled array.

An alternating Feistel network over the smallest 2^bits >= n (bits >= 2, so that no half is empty)
is a bijection of [0, 2^bits) for any round functions; applying it again until the result is below
n ("cycle walking", fewer than two passes on average for n > 2) makes it one of [0, n). Any element
is found in constant time from (seed, step) alone: batches need no state, no order of making, and
no memory, whatever n is.

The low half has floor(bits / 2) bits. Even rounds add mix(low) to the high half, odd rounds
mix(high) to the low half, by exclusive or. mix is multiply-shift hashing (pairwise independent)
with one more multiplication against its linearity; its 128-bit key is the Philox block (round,
step, stream). A pair of rounds with l-bit halves brings the distribution of any two
elements nearer to uniform by 2^-l, hence more rounds for small n.

Sources: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002; Hoang and Rogaway,
"On Generalized Feistel Networks", CRYPTO 2010; Dietzfelbinger, "Universal Hashing and k-Wise
Independent Random Variables via Integer Arithmetic without Primes", STACS 1996.

This NumPy code is the reference; `csrc/permutation.hpp` is its C++ twin, `permutation_triton.py`
its Triton one.
"""

import numpy as np
import numpy.typing as npt

from .philox import PERMUTATION_KEYS, random_words

MAX_POSITIONS = 2**62
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Indices = npt.NDArray[np.uint64]


def permute(
    index: npt.ArrayLike, n: int, *, seed: int, step: int, stream: int = PERMUTATION_KEYS
) -> npt.NDArray[np.int64]:
    """Where the permutation (seed, step, stream) of [0, n) sends each index.

    index (m,) ints in [0, n), 1 <= n <= 2^62 -> (m,) int64. Raises ValueError outside of that.
    """
    if not 1 <= n <= MAX_POSITIONS:
        raise ValueError(f"n: got {n}, expected a number in [1, 2^62]")
    given = np.atleast_1d(np.asarray(index, dtype=np.int64))
    if given.size and not (given.min() >= 0 and given.max() < n):
        raise ValueError(f"index: got {given.min()} to {given.max()}, expected numbers in [0, {n})")
    bits = width(n)
    words = random_words(np.arange(rounds(bits)), step, stream, seed)
    keys = words.view("<u8").astype(np.uint64)  # of each round: multiplier and offset
    image = given.astype(np.uint64)
    walking = np.arange(image.size)
    while walking.size:
        image[walking] = _encrypt(image[walking], bits, keys)
        walking = walking[image[walking] >= np.uint64(n)]
    return image.astype(np.int64)


def width(n: int) -> int:
    """Bits of the network that permutes [0, n); the low half has half of them, rounded down."""
    return max(2, (n - 1).bit_length())


def rounds(bits: int) -> int:
    """Rounds of a network of so many bits, an even number."""
    low_bits = bits // 2
    return 6 if low_bits >= 8 else 2 * -(-24 // low_bits)


def network(n: int) -> dict[str, int]:
    """The network that permutes [0, n), as Triton's kernels are compiled for it."""
    bits = width(n)
    return {"LOW": bits // 2, "HIGH": bits - bits // 2, "ROUNDS": rounds(bits)}


def _encrypt(i: Indices, bits: int, keys: Indices) -> Indices:
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    low, high = i & ((np.uint64(1) << low_bits) - np.uint64(1)), i >> low_bits
    for even, odd in zip(keys[0::2], keys[1::2], strict=True):
        high = high ^ _mix(low, even, high_bits)
        low = low ^ _mix(high, odd, low_bits)
    return high << low_bits | low


def _mix(half: Indices, key: Indices, out_bits: np.uint64) -> Indices:
    h = half * key[0] + key[1]  # arrays wrap around
    h = (h ^ h >> np.uint64(32)) * _MULTIPLIER
    return h >> (np.uint64(64) - out_bits)
