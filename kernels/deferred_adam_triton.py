"""Triton kernels of DeferredAdam; `deferred_adam_launch.py` runs them.

`catch_up_kernel` brings rows up to date in place, each once, at its head: the first of the sorted
positions where its id is. `read_kernel` copies rows, one an occurrence. `carry_kernel` and
`update_kernel` sum the gradients of each row and make its step. Sorted positions are cut into
chunks: the first kernel sums what a chunk has of the row that the chunk before it ends with, the
second adds that to what the row's first chunk has, so that no row is a long chain of additions. No
atomics: the same bits every time. Formulas: docs/deferred_adam.md.

A block is [ROWS, BLOCK_D]; D dimensions; `rows` int64 places in the table, STRIDE numbers from one
to the next; `late` marks the rows that have missed steps, from tau + 1 to t. An id outside the
table is never read or written.
"""

import triton
import triton.language as tl

_NEGLIGIBLE_MOMENT = tl.constexpr(1e-30)  # smaller ones become 0: as in C++
_SMALLEST = tl.constexpr(1.2e-38)  # normal float
_SEGMENT_GROWTH = tl.constexpr(5)  # a segment has at most a fifth of the steps before it


@triton.jit
def _block(rows, present, stride, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Offsets and mask of rows of D elements, [rows, BLOCK_D]."""
    dims = tl.arange(0, BLOCK_D)
    return rows[:, None] * stride + dims[None, :], present[:, None] & (dims < D)[None, :]


@triton.jit
def _terms(k, present, tau, step_size_ptr, correction_ptr, decay_ptr, HORIZON: tl.constexpr):
    """c_k and r_k of the missed steps tau + 1 + k, [rows, k]; both are 0 if not `present`."""
    steps = tau[:, None] + 1 + k
    c = tl.load(step_size_ptr + steps, mask=present, other=0.0)
    r = tl.load(correction_ptr + steps, mask=present, other=0.0)
    c *= tl.load(decay_ptr + k, mask=present, other=0.0)
    r *= tl.load(decay_ptr + HORIZON + k, mask=present, other=0.0)
    return c, r


@triton.jit
def _series(
    tau, first, last, step_size_ptr, correction_ptr, decay_ptr,
    HORIZON: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """r0, T_0, T_2, T_3, T_4 of the missed steps tau + 1 + first .. tau + last, [rows]."""
    # r_k is taken in units of the first: at a small beta2, c_k r_k^q leaves the range of a float.
    _, unit = _terms(
        first[:, None], (first < last)[:, None], tau, step_size_ptr, correction_ptr, decay_ptr,
        HORIZON,
    )  # fmt: skip
    per_unit = tl.where(unit > _SMALLEST, tl.div_rn(1.0, tl.maximum(unit, _SMALLEST)), 0.0)
    longest = tl.max(last - first, axis=0)
    t0 = tl.zeros(tau.shape, tl.float32)
    mean = tl.zeros(tau.shape, tl.float32)
    for start in range(0, longest, BLOCK_K):
        k = first[:, None] + start + tl.arange(0, BLOCK_K)[None, :]
        present = k < last[:, None]
        c, r = _terms(k, present, tau, step_size_ptr, correction_ptr, decay_ptr, HORIZON)
        t0 += tl.sum(c, axis=1)
        mean += tl.sum(c * (r * per_unit), axis=1)
    moves = t0 != 0  # not where the learning rate was 0 all along, or without a step
    mean = tl.where(moves, tl.div_rn(mean, tl.where(moves, t0, 1.0)), 1.0)

    inverse = tl.div_rn(1.0, tl.maximum(mean, _SMALLEST))
    t2 = tl.zeros(tau.shape, tl.float32)
    t3 = tl.zeros(tau.shape, tl.float32)
    t4 = tl.zeros(tau.shape, tl.float32)
    for start in range(0, longest, BLOCK_K):
        k = first[:, None] + start + tl.arange(0, BLOCK_K)[None, :]
        present = k < last[:, None]
        c, r = _terms(k, present, tau, step_size_ptr, correction_ptr, decay_ptr, HORIZON)
        deviation = r * per_unit * inverse[:, None] - 1
        c *= deviation * deviation
        t2 += tl.sum(c, axis=1)
        c *= deviation
        t3 += tl.sum(c, axis=1)
        t4 += tl.sum(c * deviation, axis=1)
    return tl.where(moves, mean * tl.sum(unit, axis=1), 1.0), t0, t2, t3, t4


@triton.jit
def _caught_up(
    weight, exp_avg, exp_avg_sq, tau, gap, step_size_ptr, correction_ptr, decay_ptr,
    EPS: tl.constexpr, HORIZON: tl.constexpr, SETTLED: tl.constexpr, LONGEST: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`weight` after `gap` missed steps from tau + 1 on; moments, tau and gap as before them."""
    root = tl.sqrt_rn(exp_avg_sq)
    end = tl.minimum(gap, HORIZON).to(tl.int32)
    first = tl.zeros(tau.shape, tl.int32)
    while tl.max(end - first, axis=0) > 0:
        before = tau + first
        growing = tl.maximum(before // _SEGMENT_GROWTH, 1)
        length = tl.where(before < SETTLED, tl.minimum(growing, LONGEST), LONGEST)
        last = tl.minimum(first + length.to(tl.int32), end)
        r0, t0, t2, t3, t4 = _series(
            tau, first, last, step_size_ptr, correction_ptr, decay_ptr, HORIZON, BLOCK_K
        )
        inverse = tl.div_rn(1.0, root * r0[:, None] + EPS)
        h = 1 - EPS * inverse  # x r0 / y, also where that is inf / inf
        series = t0[:, None] + h * h * (t2[:, None] - h * (t3[:, None] - h * t4[:, None]))
        weight -= exp_avg * inverse * series
        first = last
    return weight


@triton.jit
def _decayed(moment, gap, LOG2_BETA: tl.constexpr):
    """`moment` times beta^gap; 0 if negligible."""
    exponent = gap.to(tl.float64) * LOG2_BETA  # a float has no digits left after a large whole part
    whole = tl.floor(exponent)
    factor = tl.exp2((exponent - whole).to(tl.float32)) * tl.exp2(whole.to(tl.float32))
    moment *= factor[:, None]
    return tl.where(tl.abs(moment) < _NEGLIGIBLE_MOMENT, 0.0, moment)


@triton.jit
def _heads(sorted_ids_ptr, positions, count):
    """Ids at sorted positions, and whether each is the first of its row, and not padding."""
    inside = positions < count
    ids = tl.load(sorted_ids_ptr + positions, mask=inside, other=-1)
    before = tl.load(sorted_ids_ptr + positions - 1, mask=inside & (positions > 0), other=-1)
    return ids, (ids != before) & (ids > 0)


@triton.jit
def catch_up_kernel(
    weight_ptr, exp_avg_ptr, exp_avg_sq_ptr, stamp_ptr, sorted_ids_ptr,
    step_ptr, step_size_ptr, correction_ptr, decay_ptr, found_inf_ptr, count,
    LOG2_BETA1: tl.constexpr, LOG2_BETA2: tl.constexpr, EPS: tl.constexpr,
    HORIZON: tl.constexpr, SETTLED: tl.constexpr, LONGEST: tl.constexpr,
    D: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Bring the rows of `count` sorted ids (of -1 outside the table), or without ids the first
    `count` rows, up to the step in place, unless there is a found_inf that is not 0; grid
    (cdiv(count, ROWS),)."""
    positions = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if sorted_ids_ptr is None:
        rows = positions
        heads = (rows > 0) & (rows < count)
    else:
        ids, heads = _heads(sorted_ids_ptr, positions, count)
        rows = ids.to(tl.int64)
    t = tl.load(step_ptr)
    if found_inf_ptr is not None:
        t = tl.where(tl.load(found_inf_ptr) == 0, t, 0)  # nothing is late
    tau = tl.load(stamp_ptr + rows, mask=heads, other=0).to(tl.int64)
    late = (tau > 0) & (tau < t)
    gap = tl.where(late, t - tau, 0)
    offsets, mask = _block(rows, late, STRIDE, D, BLOCK_D)
    weight = tl.load(weight_ptr + offsets, mask=mask, other=0.0)
    exp_avg = tl.load(exp_avg_ptr + offsets, mask=mask, other=0.0)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + offsets, mask=mask, other=0.0)
    weight = _caught_up(
        weight, exp_avg, exp_avg_sq, tau, gap, step_size_ptr, correction_ptr, decay_ptr,
        EPS, HORIZON, SETTLED, LONGEST, BLOCK_K,
    )  # fmt: skip
    tl.store(weight_ptr + offsets, weight, mask=mask)
    tl.store(exp_avg_ptr + offsets, _decayed(exp_avg, gap, LOG2_BETA1), mask=mask)
    tl.store(exp_avg_sq_ptr + offsets, _decayed(exp_avg_sq, gap, LOG2_BETA2), mask=mask)
    tl.store(stamp_ptr + rows, t.to(tl.int32), mask=late)


@triton.jit
def read_kernel(
    weight_ptr, exp_avg_ptr, exp_avg_sq_ptr, stamp_ptr, ids_ptr, out_ptr,
    step_ptr, step_size_ptr, correction_ptr, decay_ptr, count, num_rows,
    EPS: tl.constexpr, HORIZON: tl.constexpr, SETTLED: tl.constexpr, LONGEST: tl.constexpr,
    D: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, CATCH_UP: tl.constexpr,
):  # fmt: skip
    """out (count, D): copies of the rows `ids` (count,), NaN for ids outside the table; caught up
    if asked, without a change in the table; grid (cdiv(count, ROWS),)."""
    positions = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(ids_ptr + positions, mask=positions < count, other=-1)
    inside = (rows >= 0) & (rows < num_rows)
    offsets, mask = _block(rows, inside, STRIDE, D, BLOCK_D)
    weight = tl.load(weight_ptr + offsets, mask=mask, other=float("nan"))
    if CATCH_UP:
        t = tl.load(step_ptr)
        tau = tl.load(stamp_ptr + rows, mask=inside, other=0).to(tl.int64)
        late = (tau > 0) & (tau < t)
        offsets, mask = _block(rows, late, STRIDE, D, BLOCK_D)
        exp_avg = tl.load(exp_avg_ptr + offsets, mask=mask, other=0.0)
        exp_avg_sq = tl.load(exp_avg_sq_ptr + offsets, mask=mask, other=0.0)
        weight = _caught_up(
            weight, exp_avg, exp_avg_sq, tau, tl.where(late, t - tau, 0),
            step_size_ptr, correction_ptr, decay_ptr, EPS, HORIZON, SETTLED, LONGEST, BLOCK_K,
        )  # fmt: skip
    offsets, mask = _block(positions, positions < count, D, D, BLOCK_D)
    tl.store(out_ptr + offsets, weight, mask=mask)


@triton.jit
def carry_kernel(
    gradients_ptr, sorted_ids_ptr, order_ptr, carry_ptr, count,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """carry[c] (D,): the sum of the gradients at the beginning of chunk c that belong to the last
    row of the chunk before; not written if there are none. Grid (chunks,)."""
    chunk = tl.program_id(0).to(tl.int64)
    positions = chunk * CHUNK + tl.arange(0, CHUNK)
    previous = tl.load(sorted_ids_ptr + chunk * CHUNK - 1, mask=chunk > 0, other=-1)
    ids = tl.load(sorted_ids_ptr + positions, mask=positions < count, other=-1)
    carried = (ids == previous) & (ids > 0)
    occurrences = tl.load(order_ptr + positions, mask=carried, other=0)
    offsets, mask = _block(occurrences, carried, D, D, BLOCK_D)
    gradients = tl.load(gradients_ptr + offsets, mask=mask, other=0.0)
    dims = tl.arange(0, BLOCK_D)
    mask = (dims < D) & (tl.max(carried.to(tl.int32), axis=0) > 0)
    tl.store(carry_ptr + chunk * D + dims, tl.sum(gradients, axis=0), mask=mask)


@triton.jit
def _sum_in_chunk(
    gradients_ptr, sorted_ids_ptr, order_ptr, ids, heads, positions, end,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[rows, BLOCK_D]: the gradients of each head's row up to the sorted position `end`, in order
    of occurrence."""
    following = positions[:, None] + tl.arange(0, CHUNK)[None, :]
    same = tl.load(sorted_ids_ptr + following, mask=following < end, other=-1) == ids[:, None]
    times = tl.where(heads, tl.sum(same.to(tl.int32), axis=1), 0)
    total = tl.zeros([positions.shape[0], BLOCK_D], tl.float32)
    for j in range(0, tl.max(times, axis=0)):
        occurrences = tl.load(order_ptr + positions + j, mask=j < times, other=0)
        offsets, mask = _block(occurrences, j < times, D, D, BLOCK_D)
        total += tl.load(gradients_ptr + offsets, mask=mask, other=0.0)
    return total


@triton.jit
def _sum_of_carries(
    carry_ptr, sorted_ids_ptr, row, present, chunk, count,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[BLOCK_D]: what the chunks from `chunk` on carry of `row`; 0 if not `present`."""
    total = tl.zeros([BLOCK_D], tl.float32)
    chunk = tl.where(present, chunk, count)
    while chunk * CHUNK < count:
        chunks = chunk + tl.arange(0, CHUNK)
        starts = chunks * CHUNK
        begins = tl.load(sorted_ids_ptr + starts, mask=starts < count, other=-1) == row
        offsets, mask = _block(chunks, begins, D, D, BLOCK_D)
        total += tl.sum(tl.load(carry_ptr + offsets, mask=mask, other=0.0), axis=0)
        chunk = tl.where(tl.min(begins.to(tl.int32), axis=0) > 0, chunk + CHUNK, count)
    return total


@triton.jit
def update_kernel(
    weight_ptr, exp_avg_ptr, exp_avg_sq_ptr, stamp_ptr,
    gradients_ptr, sorted_ids_ptr, order_ptr, carry_ptr,
    step_ptr, step_size_ptr, correction_ptr, found_inf_ptr, count,
    BETA1: tl.constexpr, REST1: tl.constexpr, BETA2: tl.constexpr, REST2: tl.constexpr,
    EPS: tl.constexpr, D: tl.constexpr, STRIDE: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adam's step of each row among `count` sorted ids, whose gradients are at `order`, unless
    there is a found_inf that is not 0; ROWS divides CHUNK; grid (cdiv(count, ROWS),)."""
    start = tl.program_id(0).to(tl.int64) * ROWS
    positions = start + tl.arange(0, ROWS)
    ids, heads = _heads(sorted_ids_ptr, positions, count)
    chunk = start // CHUNK
    end = tl.minimum((chunk + 1) * CHUNK, count)
    gradient = _sum_in_chunk(
        gradients_ptr, sorted_ids_ptr, order_ptr, ids, heads, positions, end, D, CHUNK, BLOCK_D
    )
    last = tl.load(sorted_ids_ptr + end - 1)  # the only row that the next chunks can go on with
    goes_on = heads & (ids == last)
    present = tl.max(goes_on.to(tl.int32), axis=0) > 0
    carried = _sum_of_carries(
        carry_ptr, sorted_ids_ptr, last, present, chunk + 1, count, D, CHUNK, BLOCK_D
    )
    gradient += tl.where(goes_on[:, None], carried[None, :], 0.0)

    t = tl.load(step_ptr)
    step_size = tl.load(step_size_ptr + t)
    correction = tl.load(correction_ptr + t)
    if found_inf_ptr is not None:
        heads = heads & (tl.where(tl.load(found_inf_ptr) == 0, ids, 0) > 0)
    rows = ids.to(tl.int64)
    offsets, mask = _block(rows, heads, STRIDE, D, BLOCK_D)
    exp_avg = tl.load(exp_avg_ptr + offsets, mask=mask, other=0.0)
    exp_avg = BETA1 * exp_avg + REST1 * gradient
    exp_avg_sq = tl.load(exp_avg_sq_ptr + offsets, mask=mask, other=0.0)
    exp_avg_sq = BETA2 * exp_avg_sq + REST2 * gradient * gradient
    weight = tl.load(weight_ptr + offsets, mask=mask, other=0.0)
    denominator = tl.sqrt_rn(exp_avg_sq) * correction + EPS
    weight -= tl.div_rn(step_size * exp_avg, denominator)
    tl.store(weight_ptr + offsets, weight, mask=mask)
    tl.store(exp_avg_ptr + offsets, exp_avg, mask=mask)
    tl.store(exp_avg_sq_ptr + offsets, exp_avg_sq, mask=mask)
    tl.store(stamp_ptr + rows, t.to(tl.int32), mask=heads)
