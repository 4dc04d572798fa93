"""Counter-based random numbers: Philox 4x32-10, the generator of Triton's `tl.philox`.

Everything random in remi-fast is a pure function of (seed, stream, step, index): the counter is
(index, step, stream, 0) and the key is the 64-bit seed, low word first. There is no generator
state, so any batch of any run can be made again at any time, on any backend, with the same bits.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
`philox` is the reference, in NumPy; `csrc/philox.hpp`, which draws for `random_words`, and
`philox_triton.py` are its twins.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .checks import check_whole
from .native import C

# The third word of the counter: what a number is used for. A new use gets a new stream. Those that
# C++ names itself are in csrc/philox.hpp, too.
USERS: Final = 0
TARGETS: Final = 1
NEGATIVES: Final = 2
PERMUTATION_KEYS: Final = 3
INIT: Final = 4
DATA_SPLIT: Final = 5
DEMO: Final = 6
ROUTING: Final = 7
DROPOUT: Final = 8
NEGATIVE_KEYS: Final = 9
SELECTION: Final = 10
RESAMPLING: Final = 11
BENCHMARK: Final = 12

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.array((0x9E3779B9, 0xBB67AE85), dtype=np.uint32)
_WORD = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)

Words = npt.NDArray[np.uint32]


def philox(counter: npt.ArrayLike, key: npt.ArrayLike) -> Words:
    """Philox 4x32-10 of each counter: (n, 4) and (2,) 32-bit words -> (n, 4) uint32."""
    c0, c1, c2, c3 = np.asarray(counter, dtype=np.uint32).T
    k = np.asarray(key, dtype=np.uint32)
    for _ in range(_ROUNDS):
        a = c0.astype(np.uint64) * _MULTIPLIERS[0]
        b = c2.astype(np.uint64) * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (b >> _WORD).astype(np.uint32) ^ c1 ^ k[0],
            (b & _LOW).astype(np.uint32),
            (a >> _WORD).astype(np.uint32) ^ c3 ^ k[1],
            (a & _LOW).astype(np.uint32),
        )
        k = k + _WEYL  # words wrap around
    return np.stack((c0, c1, c2, c3), axis=-1)


def check_word(name: str, value: int) -> None:
    """Raises ValueError unless `value` fits in one 32-bit counter word, TypeError if no integer."""
    check_whole(name, value)
    if not 0 <= value < 2**32:
        raise ValueError(f"{name}: got {value}, expected a number in [0, 2^32)")


def check_step(step: int | Tensor, device: torch.device | None = None) -> None:
    """Raises ValueError unless `step` is in [0, 2^32), or a tensor of one int64.

    A tensor is not read; it has to be on `device`, if that is given.
    """
    if not isinstance(step, Tensor):
        check_word("step", step)
    elif step.numel() != 1 or step.dtype != torch.int64:
        raise ValueError(
            f"step: got {tuple(step.shape)} {step.dtype}, expected a number or one torch.int64"
        )
    elif device is not None and step.device.type != device.type:
        raise ValueError(f"step: got a tensor on {step.device}, expected it on {device}")


def seed_key(seed: int) -> tuple[int, int]:
    """The Philox key of a seed in [0, 2^64): its low and its high word."""
    check_whole("seed", seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: got {seed}, expected a number in [0, 2^64)")
    return seed & 0xFFFFFFFF, seed >> 32


def random_words(index: npt.ArrayLike, step: int, stream: int, seed: int) -> Words:
    """One Philox block per index: indices (n,) in [0, 2^32) -> (n, 4) uint32."""
    check_word("step", step)
    check_word("stream", stream)
    indices = np.atleast_1d(np.asarray(index, dtype=np.int64))
    if indices.size and not (indices.min() >= 0 and indices.max() < 2**32):
        raise ValueError(
            f"index: got {indices.min()} to {indices.max()}, expected numbers in [0, 2^32)"
        )
    seed_key(seed)  # refuses what is no seed
    words: Words = C.random_words(np.ascontiguousarray(indices), step, stream, seed)
    return words


def bounded(words: Words, n: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, n): (word64 * n) >> 64 with word64 = words 1 and 0, n < 2^32.

    `words` is (m, 4) uint32 as from `random_words`, `n` one bound or (m,) bounds; returns (m,)
    int64. The bias of any single value is below n / 2^64.
    """
    bound = np.asarray(n, dtype=np.int64)
    if bound.size and not (bound.min() >= 1 and bound.max() < 2**32):
        raise ValueError(f"n: got {bound.min()} to {bound.max()}, expected numbers in [1, 2^32)")
    low, high = words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)
    wide = bound.astype(np.uint64)
    return ((high * wide + (low * wide >> _WORD)) >> _WORD).astype(np.int64)


def standard_normal(num: int, step: int, stream: int, seed: int) -> npt.NDArray[np.float64]:
    """`num` numbers of N(0, 1), four a Philox block: two pairs by Box and Muller (1958)."""
    words = random_words(np.arange(-(-num // 4)), step, stream, seed)
    uniform = (words.astype(np.float64) + 0.5) / 2**32  # in (0, 1)
    radius = np.sqrt(-2 * np.log(uniform[:, ::2]))
    angle = 2 * np.pi * uniform[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(-1)[:num]
