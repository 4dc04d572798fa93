"""The Triton twin of `philox.py`: the same ids from the same (seed, stream, step, index)."""

import triton
import triton.language as tl

from . import philox

_NEGATIVES = tl.constexpr(philox.NEGATIVES)


@triton.jit
def draw_below(index, seed, step, bound, STREAM: tl.constexpr):
    """bounded(Philox(index, step, STREAM, seed), bound): int64, one an index; bound is uint64."""
    low, high, _, _ = tl.philox(seed, index.to(tl.uint32), step.to(tl.uint32), STREAM, 0)
    low, high = low.to(tl.uint64), high.to(tl.uint64)
    return ((high * bound + (low * bound >> 32)) >> 32).to(tl.int64)


@triton.jit
def draw_negatives(index, seed, step, num_items):
    """1 + bounded(Philox(index, step, NEGATIVES, seed), num_items - 1): int64 ids, one an index."""
    return 1 + draw_below(index, seed, step, num_items.to(tl.uint64) - 1, _NEGATIVES)


@triton.jit(do_not_specialize=["seed", "step", "num_items"])
def sample_negatives_kernel(ids_ptr, step_ptr, num, num_items, seed, step, BLOCK: tl.constexpr):
    """ids (num,) int64 of one step, which step_ptr holds if given; grid (cdiv(num, BLOCK),)."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if step_ptr is not None:
        step = tl.load(step_ptr)
    tl.store(ids_ptr + index, draw_negatives(index, seed, step, num_items), mask=index < num)


@triton.jit(do_not_specialize=["seed", "step", "num_items"])
def sample_by_alias_kernel(
    ids_ptr, threshold_ptr, alias_ptr, step_ptr, num, num_items, seed, step, BLOCK: tl.constexpr
):
    """ids (num,) int64 of one step, drawn by an alias table of num_items - 1 columns."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if step_ptr is not None:
        step = tl.load(step_ptr)
    column = draw_negatives(index, seed, step, num_items) - 1
    _, _, third, _ = tl.philox(seed, index.to(tl.uint32), step.to(tl.uint32), _NEGATIVES, 0)
    kept = third.to(tl.int64) < tl.load(threshold_ptr + column)
    other = tl.load(alias_ptr + column).to(tl.int64)
    tl.store(ids_ptr + index, 1 + tl.where(kept, column, other), mask=index < num)
