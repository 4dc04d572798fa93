"""Triton kernels of the multi-interest IHN loss; `ihn_loss_launch.py` runs them.

Forward: `partials_kernel` walks one part of the negatives for one block of users and keeps, a user,
the running maximum, both sums and, if the interests need a gradient, both sums weighted by the
negatives' rows; `combine_kernel` adds the parts up in a fixed order, one program a user. Backward:
`negative_gradients_kernel` makes the scores again, one program a block of negatives, and
`row_gradients_kernel` spreads what the forward has kept. No atomics: the same bits every time.
Formulas: docs/method.md.

Names: B users, K interests, N negatives, D dimensions; `_ptr` a pointer, None where an option is
off; A and Q: beta = A / Q where one exponential serves both sums, else Q = 0.
"""

import triton
import triton.language as tl

from .philox_triton import draw_negatives
from .runtime import rounded

_LOG2E = tl.constexpr(1.4426950408889634)
_INF = tl.constexpr(float("inf"))


@triton.jit
def _scalar(value, DTYPE: tl.constexpr):
    """A float argument (double on a GPU, a Python float in the interpreter) as a DTYPE scalar."""
    return (tl.full((), 1.0, tl.float64) * value).to(DTYPE)


@triton.jit
def _load_rows(matrix_ptr, rows, stride, inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, BLOCK_D] of a matrix with that row stride; 0 where not `inside`."""
    dims = tl.arange(0, BLOCK_D)
    pointers = matrix_ptr + rows.to(tl.int64)[:, None] * stride + dims[None, :]
    return tl.load(pointers, mask=inside[:, None] & (dims < D)[None, :], other=0.0)


@triton.jit
def _scores_by_chunk(
    left_ptr, left_rows, left_real, right_ptr, right_rows, right_real,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[left, right] inner products of rows at these offsets, read again CHUNK dimensions at a
    time: where whole rows do not fit in the registers."""
    scores = tl.zeros([left_rows.shape[0], right_rows.shape[0]], SUM)
    for start in range(0, BLOCK_D, CHUNK):
        dims = start + tl.arange(0, CHUNK)
        mask = left_real[:, None] & (dims < D)[None, :]
        left = tl.load(left_ptr + left_rows[:, None] + dims[None, :], mask=mask, other=0.0)
        mask = right_real[:, None] & (dims < D)[None, :]
        right = tl.load(right_ptr + right_rows[:, None] + dims[None, :], mask=mask, other=0.0)
        scores = tl.dot(
            left.to(DOT), tl.trans(right.to(DOT)), scores,
            input_precision=PRECISION, out_dtype=SUM,
        )  # fmt: skip
    return scores


@triton.jit
def _integer_power(base, EXPONENT: tl.constexpr):
    """base ** EXPONENT, 1 <= EXPONENT < 16, by squaring."""
    power = 1.0
    for bit in tl.static_range(4):
        if (EXPONENT >> bit) % 2 == 1:
            power = power * base
        if (EXPONENT >> (bit + 1)) > 0:
            base = base * base
    return power


@triton.jit
def _exponentials(x, beta, A: tl.constexpr, Q: tl.constexpr):
    """exp((1 + beta) x) and exp(beta x); 0 and 0 for x = -inf."""
    if Q == 0:
        hard = tl.exp2(x * ((1 + beta) * _LOG2E))
        weight = tl.exp2(x * (beta * _LOG2E))
    else:
        root = tl.exp2(x * (_LOG2E / Q))  # exp(x / Q), and beta = A / Q
        if A == 0:
            hard = root
            weight = tl.where(x == -_INF, 0.0, 1.0).to(x.dtype)
        else:
            weight = _integer_power(root, A)
            hard = weight * _integer_power(root, Q)
    return hard, weight


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0, also where 1 + x rounds (Higham, Accuracy and Stability, 1.14.1)."""
    u = 1 + x
    return tl.where(u == 1, x, tl.log(u) * (x / tl.where(u == 1, 1, u - 1)))


@triton.jit
def _leave_out(scores, ids, target_ids, rows_are_targets: tl.constexpr):
    """-inf where a negative is the row's own target; targets along dimension 0 or 1."""
    if rows_are_targets:  # with an else: Triton compiles what follows a return in an if
        hit = target_ids[:, None] == ids[None, :]
    else:
        hit = ids[:, None] == target_ids[None, :]
    return tl.where(hit, -_INF, scores)


@triton.jit
def _choose_interest(
    interests_ptr, target, users, real, stride_user, stride_interest,
    K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The interest with the largest inner product with the target: [B, D] query, [B] choice."""
    query = _load_rows(interests_ptr, users, stride_user, real, D, BLOCK_D).to(target.dtype)
    choice = tl.zeros(users.shape, tl.int32)
    best = tl.sum(query * target, axis=1)
    for k in range(1, K):
        interest_ptr = interests_ptr + tl.cast(k, tl.int64) * stride_interest
        interest = _load_rows(interest_ptr, users, stride_user, real, D, BLOCK_D)
        interest = interest.to(target.dtype)
        score = tl.sum(interest * target, axis=1)
        better = (score > best) | (score != score)  # NaN wins, as in torch.argmax
        best = tl.where(better, score, best)
        choice = tl.where(better, k, choice)
        query = tl.where(better[:, None], interest, query)
    return query, choice


@triton.jit(do_not_specialize=["seed", "step", "num_items"])
def partials_kernel(
    interests_ptr, target_ptr, target_ids_ptr, negatives_ptr, negative_ids_ptr, importance_ptr,
    step_ptr, chosen_ptr, partial_sums_ptr, hard_rows_ptr, weight_rows_ptr,
    B, N, split_columns, num_items, stride_user, stride_interest, stride_target, stride_negative,
    beta: tl.float64, seed, step,
    K: tl.constexpr, D: tl.constexpr, A: tl.constexpr, Q: tl.constexpr,
    GATHER_TARGET: tl.constexpr, GATHER_NEGATIVES: tl.constexpr, DRAW: tl.constexpr,
    MASK: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sums over one part of the negatives; grid (cdiv(B, BLOCK_B), splits).

    chosen (B,) int64; partial_sums (3, splits, B): maximum, hard sum, weight sum; hard_rows and
    weight_rows (splits, B, D): the same sums times the negatives' rows, or None. With DRAW,
    negative_ids (N,) is written.
    """
    split = tl.program_id(1)
    users = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    real = users < B
    beta = _scalar(beta, SUM)
    dims = tl.arange(0, BLOCK_D)

    target_rows = users.to(tl.int64)
    target_real = real
    if target_ids_ptr is not None:
        target_ids = tl.load(target_ids_ptr + users, mask=real, other=-1).to(tl.int64)
        if GATHER_TARGET:
            target_rows = target_ids
            target_real = real & (target_ids >= 0) & (target_ids < num_items)
    target = _load_rows(target_ptr, target_rows, stride_target, target_real, D, BLOCK_D).to(SUM)
    query, choice = _choose_interest(
        interests_ptr, target, users, real, stride_user, stride_interest, K, D, BLOCK_D
    )
    if split == 0:
        tl.store(chosen_ptr + users, choice.to(tl.int64), mask=real)
    query = query.to(DOT)
    query_rows = users.to(tl.int64) * stride_user + choice.to(tl.int64) * stride_interest
    if step_ptr is not None:
        step = tl.load(step_ptr)

    maximum = tl.full([BLOCK_B], -_INF, SUM)
    hard_sum = tl.zeros([BLOCK_B], SUM)
    weight_sum = tl.zeros([BLOCK_B], SUM)
    hard_rows = tl.zeros([BLOCK_B, BLOCK_D], SUM)
    weight_rows = tl.zeros([BLOCK_B, BLOCK_D], SUM)
    first = split * split_columns
    last = tl.minimum(first + split_columns, N)
    for start in range(first, last, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        valid = columns < last
        if DRAW:
            ids = draw_negatives(columns, seed, step, num_items)
            if tl.program_id(0) == 0:
                tl.store(negative_ids_ptr + columns, ids, mask=valid)
        elif negative_ids_ptr is not None:
            ids = tl.load(negative_ids_ptr + columns, mask=valid, other=-1).to(tl.int64)
        else:
            ids = columns.to(tl.int64) + 1  # the catalogue without its padding row
        present = valid
        negative_rows = columns.to(tl.int64)
        if GATHER_NEGATIVES:
            present = valid & (ids >= 0) & (ids < num_items)
            negative_rows = ids
        negatives = _load_rows(negatives_ptr, negative_rows, stride_negative, present, D, BLOCK_D)
        negatives = negatives.to(DOT)
        if CHUNK == BLOCK_D:
            scores = tl.dot(query, tl.trans(negatives), input_precision=PRECISION, out_dtype=SUM)
        else:
            scores = _scores_by_chunk(
                interests_ptr, query_rows, real, negatives_ptr, negative_rows * stride_negative,
                present, D, CHUNK, BLOCK_D, DOT, SUM, PRECISION,
            )  # fmt: skip
        scores = tl.where(valid[None, :], scores, -_INF)
        if MASK:
            scores = _leave_out(scores, ids, target_ids, True)
        if GATHER_NEGATIVES:  # an id outside the table is not read, and not passed over either
            scores = tl.where((valid & ~present)[None, :], float("nan"), scores)

        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        base = tl.where(new_maximum == -_INF, 0.0, new_maximum)
        hard, weight = _exponentials(scores - base[:, None], beta, A, Q)
        if importance_ptr is not None:
            importance = tl.load(importance_ptr + columns, mask=valid, other=0.0).to(SUM)
            hard = hard * importance[None, :]
            weight = weight * importance[None, :]
        hard_shrink, weight_shrink = _exponentials(maximum - base, beta, A, Q)
        hard_sum = hard_sum * hard_shrink + tl.sum(hard, axis=1)
        weight_sum = weight_sum * weight_shrink + tl.sum(weight, axis=1)
        if hard_rows_ptr is not None:
            hard_rows = hard_rows * hard_shrink[:, None]
            hard_rows = tl.dot(
                hard.to(DOT), negatives, hard_rows, input_precision=PRECISION, out_dtype=SUM
            )
        if weight_rows_ptr is not None:
            weight_rows = weight_rows * weight_shrink[:, None]
            weight_rows = tl.dot(
                weight.to(DOT), negatives, weight_rows, input_precision=PRECISION, out_dtype=SUM
            )
        maximum = new_maximum

    place = split.to(tl.int64) * B + users
    size = tl.num_programs(1).to(tl.int64) * B
    tl.store(partial_sums_ptr + place, maximum, mask=real)
    tl.store(partial_sums_ptr + size + place, hard_sum, mask=real)
    tl.store(partial_sums_ptr + 2 * size + place, weight_sum, mask=real)
    pointers = place[:, None] * D + dims[None, :]
    mask = real[:, None] & (dims < D)[None, :]
    if hard_rows_ptr is not None:
        tl.store(hard_rows_ptr + pointers, hard_rows, mask=mask)
    if weight_rows_ptr is not None:
        tl.store(weight_rows_ptr + pointers, weight_rows, mask=mask)


@triton.jit
def _centred_squares(routing_ptr, L, stride_place, SUM: tl.constexpr, BLOCK_L: tl.constexpr):
    """Mean of L routing weights, and the sum of their squared distances from it."""
    total = tl.zeros([BLOCK_L], SUM)
    for start in range(0, L, BLOCK_L):
        places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        total += tl.load(routing_ptr + places * stride_place, mask=places < L, other=0.0).to(SUM)
    mean = tl.sum(total, axis=0) / L
    squares = tl.zeros([BLOCK_L], SUM)
    for start in range(0, L, BLOCK_L):
        places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        weights = tl.load(routing_ptr + places * stride_place, mask=places < L, other=0.0).to(SUM)
        squares += tl.where(places < L, (weights - mean) * (weights - mean), 0.0)
    return mean, tl.sum(squares, axis=0)


@triton.jit
def combine_kernel(
    interests_ptr, target_ptr, target_ids_ptr, target_log_q_ptr, routing_ptr, chosen_ptr,
    partial_sums_ptr, hard_rows_ptr, weight_rows_ptr, loss_ptr, rr_ptr, row_stats_ptr, slope_ptr,
    B, S, L, num_items, stride_user, stride_interest, stride_target,
    stride_routing_user, stride_routing_interest, stride_place,
    beta: tl.float64, log_scale: tl.float64,
    K: tl.constexpr, D: tl.constexpr, A: tl.constexpr, Q: tl.constexpr,
    GATHER_TARGET: tl.constexpr, DETACH: tl.constexpr, SUM: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """Loss and routing regularizer of one user from its S partial sums; grid (B,).

    loss, rr (B,); row_stats (4, B): maximum, the factors of exp((1 + beta)(s - maximum)) and of
    exp(beta (s - maximum)) in dloss/ds, dloss/dlogZ; slope (B, D): dloss/dquery, or None.
    """
    user = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    beta = _scalar(beta, SUM)
    maximum = tl.full([BLOCK_S], -_INF, SUM)
    for start in range(0, S, BLOCK_S):
        splits = start + tl.arange(0, BLOCK_S)
        place = splits.to(tl.int64) * B + user
        part = tl.load(partial_sums_ptr + place, mask=splits < S, other=-_INF)
        maximum = tl.maximum(maximum, part)
    base = tl.max(maximum, axis=0)
    base = tl.where(base == -_INF, 0.0, base)

    hard_sum = tl.zeros([BLOCK_S], SUM)
    weight_sum = tl.zeros([BLOCK_S], SUM)
    hard_row = tl.zeros([BLOCK_D], SUM)
    weight_row = tl.zeros([BLOCK_D], SUM)
    for start in range(0, S, BLOCK_S):
        splits = start + tl.arange(0, BLOCK_S)
        place = splits.to(tl.int64) * B + user
        present = splits < S
        part = tl.load(partial_sums_ptr + place, mask=present, other=-_INF)
        hard, weight = _exponentials(part - base, beta, A, Q)
        second = (splits + S).to(tl.int64) * B + user
        third = (splits + 2 * S).to(tl.int64) * B + user
        hard_sum += hard * tl.load(partial_sums_ptr + second, mask=present, other=0.0)
        weight_sum += weight * tl.load(partial_sums_ptr + third, mask=present, other=0.0)
        pointers = place[:, None] * D + dims[None, :]
        mask = present[:, None] & (dims < D)[None, :]
        if hard_rows_ptr is not None:
            rows = tl.load(hard_rows_ptr + pointers, mask=mask, other=0.0)
            hard_row += tl.sum(hard[:, None] * rows, axis=0)
        if weight_rows_ptr is not None:
            rows = tl.load(weight_rows_ptr + pointers, mask=mask, other=0.0)
            weight_row += tl.sum(weight[:, None] * rows, axis=0)
    hard_total = tl.sum(hard_sum, axis=0)
    weight_total = tl.sum(weight_sum, axis=0)

    target_row = user
    inside = user < B
    if GATHER_TARGET:
        target_row = tl.load(target_ids_ptr + user).to(tl.int64)
        inside = (target_row >= 0) & (target_row < num_items)
    target_pointers = target_ptr + target_row * stride_target + dims
    target = tl.load(target_pointers, mask=inside & (dims < D), other=0.0).to(SUM)
    choice = tl.load(chosen_ptr + user)
    query_pointers = interests_ptr + user * stride_user + choice * stride_interest + dims
    query = tl.load(query_pointers, mask=dims < D, other=0.0).to(SUM)
    target_score = tl.sum(query * target, axis=0)
    target_score = tl.where(inside, target_score, float("nan"))
    if target_log_q_ptr is not None:
        target_score -= tl.load(target_log_q_ptr + user).to(SUM)

    empty = weight_total == 0  # nothing to compare with
    hard_total = tl.where(empty, 1.0, hard_total)
    weight_total = tl.where(empty, 1.0, weight_total)
    log_z = base + tl.log(hard_total) - tl.log(weight_total) + _scalar(log_scale, SUM)
    margin = log_z - target_score
    small = tl.exp2(-tl.abs(margin) * _LOG2E)
    loss = tl.maximum(margin, 0.0) + _log1p(small)  # softplus
    probability = tl.where(margin >= 0, 1.0, small) / (1 + small)  # sigmoid
    probability = tl.where(empty, 0.0, probability)
    loss = tl.where(empty, 0.0, loss)
    tl.store(loss_ptr + user, loss)

    if DETACH:
        hard_factor = probability / hard_total
        weight_factor = probability * 0.0
    else:
        hard_factor = probability * (1 + beta) / hard_total
        weight_factor = probability * beta / weight_total
    size = tl.cast(B, tl.int64)
    tl.store(row_stats_ptr + user, base)
    tl.store(row_stats_ptr + size + user, hard_factor)
    tl.store(row_stats_ptr + 2 * size + user, weight_factor)
    tl.store(row_stats_ptr + 3 * size + user, probability)
    if slope_ptr is not None:
        slope = hard_factor * hard_row - probability * target
        if weight_rows_ptr is not None:
            slope -= weight_factor * weight_row
        tl.store(slope_ptr + user * D + dims, slope, mask=dims < D)

    if routing_ptr is not None:
        rr = hard_total * 0.0
        for k in range(K):
            weights_ptr = routing_ptr + user * stride_routing_user
            weights_ptr += tl.cast(k, tl.int64) * stride_routing_interest
            _, squares = _centred_squares(weights_ptr, L, stride_place, SUM, BLOCK_L)
            rr += (squares / D) * (squares / D)
        tl.store(rr_ptr + user, rr)


@triton.jit
def negative_gradients_kernel(
    interests_ptr, chosen_ptr, target_ids_ptr, negatives_ptr, negative_ids_ptr, importance_ptr,
    row_stats_ptr, grad_loss_ptr, grad_negatives_ptr,
    B, N, num_items, stride_user, stride_interest, stride_negative, stride_grad_loss,
    beta: tl.float64,
    D: tl.constexpr, A: tl.constexpr, Q: tl.constexpr, GATHER_NEGATIVES: tl.constexpr,
    MASK: tl.constexpr, TARGETS_TOO: tl.constexpr, ONE_SUM: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Gradients (N, D) of the negatives' rows; grid (cdiv(N, BLOCK_N),).

    ONE_SUM: dloss/ds has no exp(beta s) part (beta 0 or detached weights). TARGETS_TOO: a masked
    pair is the user's target, and gets its gradient, too.
    """
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = columns < N
    dims = tl.arange(0, BLOCK_D)
    beta = _scalar(beta, SUM)
    if negative_ids_ptr is not None:
        ids = tl.load(negative_ids_ptr + columns, mask=valid, other=-1).to(tl.int64)
    else:
        ids = columns.to(tl.int64) + 1
    present = valid
    negative_rows = columns.to(tl.int64)
    if GATHER_NEGATIVES:
        present = valid & (ids >= 0) & (ids < num_items)
        negative_rows = ids
    negatives = _load_rows(negatives_ptr, negative_rows, stride_negative, present, D, BLOCK_D)
    negatives = negatives.to(DOT)
    if importance_ptr is not None:
        importance = tl.load(importance_ptr + columns, mask=valid, other=0.0).to(SUM)

    size = tl.cast(B, tl.int64)
    gradient = tl.zeros([BLOCK_N, BLOCK_D], SUM)
    for start in range(0, B, BLOCK_B):
        users = start + tl.arange(0, BLOCK_B)
        real = users < B
        rows = users.to(tl.int64) * stride_user
        rows += tl.load(chosen_ptr + users, mask=real, other=0) * stride_interest
        query = _load_rows(interests_ptr, rows, 1, real, D, BLOCK_D).to(DOT)
        if CHUNK == BLOCK_D:
            scores = tl.dot(negatives, tl.trans(query), input_precision=PRECISION, out_dtype=SUM)
        else:
            scores = _scores_by_chunk(
                negatives_ptr, negative_rows * stride_negative, present, interests_ptr, rows, real,
                D, CHUNK, BLOCK_D, DOT, SUM, PRECISION,
            )  # fmt: skip
        if MASK:
            target_ids = tl.load(target_ids_ptr + users, mask=real, other=-1).to(tl.int64)
            scores = _leave_out(scores, ids, target_ids, False)
        maximum = tl.load(row_stats_ptr + users, mask=real, other=_INF)  # absent users: exp = 0
        hard, weight = _exponentials(scores - maximum[None, :], beta, A, Q)
        gain = tl.load(grad_loss_ptr + users.to(tl.int64) * stride_grad_loss, mask=real, other=0.0)
        gain = gain.to(SUM)
        hard_factor = tl.load(row_stats_ptr + size + users, mask=real, other=0.0) * gain
        slope = hard * hard_factor[None, :]
        if not ONE_SUM:
            weight_factor = tl.load(row_stats_ptr + 2 * size + users, mask=real, other=0.0) * gain
            slope -= weight * weight_factor[None, :]
        if importance_ptr is not None:
            slope = slope * importance[:, None]
        if TARGETS_TOO:
            probability = tl.load(row_stats_ptr + 3 * size + users, mask=real, other=0.0)
            is_target = ids[:, None] == target_ids[None, :]
            slope = tl.where(is_target, -(probability * gain)[None, :], slope)
        gradient = tl.dot(slope.to(DOT), query, gradient, input_precision=PRECISION, out_dtype=SUM)
    pointers = grad_negatives_ptr + columns.to(tl.int64)[:, None] * D + dims[None, :]
    gradient = rounded(gradient, grad_negatives_ptr.dtype.element_ty)
    tl.store(pointers, gradient, mask=valid[:, None] & (dims < D)[None, :])


@triton.jit
def row_gradients_kernel(
    interests_ptr, chosen_ptr, routing_ptr, row_stats_ptr, slope_ptr, grad_loss_ptr, grad_rr_ptr,
    grad_interests_ptr, grad_target_ptr, grad_routing_ptr,
    B, L, stride_user, stride_interest, stride_routing_user, stride_routing_interest, stride_place,
    stride_grad_loss, stride_grad_rr,
    K: tl.constexpr, D: tl.constexpr, SUM: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """Gradients of one user's interests (K, D), target row (D,) and routing (K, L); grid (B,).

    Each output whose pointer is None is left out.
    """
    user = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    choice = tl.load(chosen_ptr + user)
    gain = tl.zeros((), SUM)
    if grad_loss_ptr is not None:
        gain = tl.load(grad_loss_ptr + user * stride_grad_loss).to(SUM)
    if grad_interests_ptr is not None:
        slope = gain * tl.load(slope_ptr + user * D + dims, mask=dims < D, other=0.0)
        interests = tl.arange(0, BLOCK_K)
        spread = tl.where((interests == choice)[:, None], slope[None, :], 0.0)
        pointers = grad_interests_ptr + (user * K + interests[:, None]) * D + dims[None, :]
        spread = rounded(spread, grad_interests_ptr.dtype.element_ty)
        tl.store(pointers, spread, mask=(interests < K)[:, None] & (dims < D)[None, :])
    if grad_target_ptr is not None:
        query_pointers = interests_ptr + user * stride_user + choice * stride_interest + dims
        query = tl.load(query_pointers, mask=dims < D, other=0.0).to(SUM)
        grad_target = -gain * tl.load(row_stats_ptr + 3 * tl.cast(B, tl.int64) + user) * query
        grad_target = rounded(grad_target, grad_target_ptr.dtype.element_ty)
        tl.store(grad_target_ptr + user * D + dims, grad_target, mask=dims < D)
    if grad_routing_ptr is not None:
        gain = tl.load(grad_rr_ptr + user * stride_grad_rr).to(SUM)
        for k in range(K):
            weights_ptr = routing_ptr + user * stride_routing_user
            weights_ptr += tl.cast(k, tl.int64) * stride_routing_interest
            mean, squares = _centred_squares(weights_ptr, L, stride_place, SUM, BLOCK_L)
            for start in range(0, L, BLOCK_L):
                places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
                weights = tl.load(weights_ptr + places * stride_place, mask=places < L, other=0.0)
                slopes = gain * 4 * (squares / D) * ((weights.to(SUM) - mean) / D)
                slopes = rounded(slopes, grad_routing_ptr.dtype.element_ty)
                tl.store(grad_routing_ptr + (user * K + k) * L + places, slopes, mask=places < L)
