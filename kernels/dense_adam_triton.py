"""Triton kernel of Adam on weights that all move; `dense_adam_launch.py` runs it.

No program reads what another one writes: the number of the step is not that of the weights' own
state, which is written only.
"""

import triton
import triton.language as tl


@triton.jit
def dense_adam_kernel(
    weight_ptrs, gradient_ptrs, exp_avg_ptrs, exp_avg_sq_ptrs, step_ptrs, sizes,
    number_ptr, step_size_ptr, correction_ptr, found_inf_ptr,
    REST1: tl.constexpr, BETA2: tl.constexpr, REST2: tl.constexpr, EPS: tl.constexpr,
    TENSORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adam's step of BLOCK elements of one of the tensors, unless there is a found_inf that is not
    0. The first program of a tensor writes its number of steps; grid (the sum of
    max(1, cdiv(size, BLOCK)),)."""
    program = tl.program_id(0)
    t = tl.load(number_ptr) + 1
    if found_inf_ptr is not None:
        t = tl.where(tl.load(found_inf_ptr) == 0, t, 0)  # no step
    step_size = tl.load(step_size_ptr + t)
    correction = tl.load(correction_ptr + t)
    first = 0
    for i in tl.static_range(TENSORS):
        size = sizes[i]
        programs = tl.maximum(tl.cdiv(size, BLOCK), 1)
        if (program >= first) & (program < first + programs):
            offsets = (program - first) * BLOCK + tl.arange(0, BLOCK)
            mask = tl.where(t > 0, offsets, size) < size
            gradient = tl.load(gradient_ptrs[i] + offsets, mask=mask, other=0.0)
            exp_avg = tl.load(exp_avg_ptrs[i] + offsets, mask=mask, other=0.0)
            exp_avg += REST1 * (gradient - exp_avg)  # one rounding less than of two products
            exp_avg_sq = tl.load(exp_avg_sq_ptrs[i] + offsets, mask=mask, other=0.0)
            exp_avg_sq = BETA2 * exp_avg_sq + REST2 * gradient * gradient
            weight = tl.load(weight_ptrs[i] + offsets, mask=mask, other=0.0)
            denominator = tl.sqrt_rn(exp_avg_sq) * correction + EPS
            weight -= tl.div_rn(step_size * exp_avg, denominator)
            tl.store(weight_ptrs[i] + offsets, weight, mask=mask)
            tl.store(exp_avg_ptrs[i] + offsets, exp_avg, mask=mask)
            tl.store(exp_avg_sq_ptrs[i] + offsets, exp_avg_sq, mask=mask)
            tl.store(step_ptrs[i], t.to(tl.float32), mask=(t > 0) & (program == first))
        first += programs
