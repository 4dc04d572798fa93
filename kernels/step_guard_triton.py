"""Triton kernel that looks at a training step; `step_guard_launch.py` runs it.

Whatever program finds something writes the same values to the same places, in any order: no atomics
are needed, and the result is the same every time.
"""

import triton
import triton.language as tl


@triton.jit
def _not_finite(values):
    return ~(tl.abs(values) < float("inf"))


@triton.jit
def _hold(bad, found_inf_ptr, increment_ptr):
    """Hold the guard where `bad`, an int32, is not 0."""
    tl.store(found_inf_ptr, 1.0, mask=bad > 0)
    tl.store(increment_ptr, tl.zeros([], tl.int64), mask=bad > 0)


@triton.jit
def _mean(values_ptr, count, BLOCK: tl.constexpr):
    """Mean of `count` numbers, summed in a fixed order; NaN of none."""
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        sums += tl.load(values_ptr + offsets, mask=offsets < count, other=0.0)
    count = tl.cast(count, tl.float32)  # a count of 1 is a constant, without `to`
    return tl.div_rn(tl.sum(sums, axis=0), count)


@triton.jit
def _rows_not_finite(
    ids_ptr, gradients_ptr, exp_avg_ptr, exp_avg_sq_ptr, block, count, num_rows,
    D: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """int32: whether something is not finite of the gradients and moments of ROWS occurrences."""
    positions = tl.cast(block, tl.int64) * ROWS + tl.arange(0, ROWS)
    ids = tl.load(ids_ptr + positions, mask=positions < count, other=0)
    dims = tl.arange(0, BLOCK_D)[None, :]
    mask = ((ids > 0) & (ids < num_rows))[:, None] & (dims < D)
    gradients = tl.load(gradients_ptr + positions[:, None] * D + dims, mask=mask, other=0.0)
    offsets = ids[:, None] * STRIDE + dims
    exp_avg = tl.load(exp_avg_ptr + offsets, mask=mask, other=0.0)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + offsets, mask=mask, other=0.0)
    bad = _not_finite(gradients) | _not_finite(exp_avg) | _not_finite(exp_avg_sq)
    return tl.max(tl.max(bad.to(tl.int32), axis=1), axis=0)


@triton.jit
def look_kernel(
    found_inf_ptr, increment_ptr, losses_ptr, step_ptr, ranking_ptr, rr_ptr,
    ids_ptr, gradients_ptr, exp_avg_ptr, exp_avg_sq_ptr, dense_ptrs, dense_sizes,
    batch, count, num_rows, rr_weight,
    CAPACITY: tl.constexpr, DENSE: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program 0 has the losses, the next ones ROWS gathered rows each, the others BLOCK elements
    of a dense tensor each; grid (1 + cdiv(count, ROWS) + cdiv of every dense size,)."""
    program = tl.program_id(0)
    row_programs = tl.cdiv(count, ROWS)
    if program == 0:
        ranking = _mean(ranking_ptr, batch, BLOCK)
        rr = tl.zeros([], tl.float32)
        if rr_ptr is not None:
            rr = _mean(rr_ptr, batch, BLOCK)
        total = tl.where(rr_weight == 0, ranking, ranking + rr_weight * rr)
        slot = losses_ptr + tl.load(step_ptr) % CAPACITY * 3
        tl.store(slot, total)
        tl.store(slot + 1, ranking)
        tl.store(slot + 2, rr)
        _hold(_not_finite(total).to(tl.int32), found_inf_ptr, increment_ptr)
    elif program <= row_programs:
        bad = _rows_not_finite(
            ids_ptr, gradients_ptr, exp_avg_ptr, exp_avg_sq_ptr, program - 1, count, num_rows,
            D, STRIDE, ROWS, BLOCK_D,
        )  # fmt: skip
        _hold(bad, found_inf_ptr, increment_ptr)
    else:
        first = 1 + row_programs
        for i in tl.static_range(DENSE):
            size = dense_sizes[i]
            programs = tl.cdiv(size, BLOCK)
            if (program >= first) & (program < first + programs):
                offsets = (program - first) * BLOCK + tl.arange(0, BLOCK)
                values = tl.load(dense_ptrs[i] + offsets, mask=offsets < size, other=0.0)
                bad = tl.max(_not_finite(values).to(tl.int32), axis=0)
                _hold(bad, found_inf_ptr, increment_ptr)
            first += programs
