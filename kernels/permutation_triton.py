"""The Triton twin of `permutation.py`: the same images from the same (seed, step, stream)."""

import triton
import triton.language as tl

from . import philox

_NEGATIVE_KEYS = tl.constexpr(philox.NEGATIVE_KEYS)
_MULTIPLIER = tl.constexpr(0x9E3779B97F4A7C15)


@triton.jit
def _mix(half, seed, step, round, STREAM: tl.constexpr, BITS: tl.constexpr):
    counter = tl.cast(round, tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, counter, step.to(tl.uint32), STREAM, 0)
    multiplier = w1.to(tl.uint64) << 32 | w0.to(tl.uint64)
    offset = w3.to(tl.uint64) << 32 | w2.to(tl.uint64)
    h = half * multiplier + offset
    h = (h ^ h >> 32) * _MULTIPLIER
    return h >> (64 - BITS)


@triton.jit
def _encrypt(
    i, seed, step,
    STREAM: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    low, high = i & ((1 << LOW) - 1), i >> LOW
    # Unrolled, the six rounds of n > 2^15 let their keys' Philox move out of the cycle walking.
    for even in tl.range(0, ROUNDS, 2, loop_unroll_factor=3):
        high = high ^ _mix(low, seed, step, even, STREAM, HIGH)
        low = low ^ _mix(high, seed, step, even + 1, STREAM, LOW)
    return high << LOW | low


@triton.jit
def permute(
    index, n, seed, step,
    STREAM: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """int64 images of a block of indices below n <= 2^(LOW + HIGH), a uint64.

    step is one for all of them, or a block.
    """
    image = _encrypt(index.to(tl.uint64), seed, step, STREAM, LOW, HIGH, ROUNDS)
    while tl.max((image >= n).to(tl.int32), axis=0) > 0:  # cycle walking
        further = _encrypt(image, seed, step, STREAM, LOW, HIGH, ROUNDS)
        image = tl.where(image >= n, further, image)
    return image.to(tl.int64)


@triton.jit(do_not_specialize=["seed", "step", "num_items"])
def sample_distinct_kernel(
    ids_ptr, step_ptr, num, num_items, seed, step,
    LOW: tl.constexpr, HIGH: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ids (num,) int64, all different, of one step, which step_ptr holds if given.

    The first num images of the permutation of num_items - 1 < 2^(LOW + HIGH) elements; grid
    (cdiv(num, BLOCK),).
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if step_ptr is not None:
        step = tl.load(step_ptr)
    n = num_items.to(tl.uint64) - 1
    inside = tl.where(index < num, index, 0)
    image = permute(inside, n, seed, step, _NEGATIVE_KEYS, LOW, HIGH, ROUNDS)
    tl.store(ids_ptr + index, 1 + image, mask=index < num)
