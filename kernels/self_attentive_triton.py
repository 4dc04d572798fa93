"""Triton kernels of ComiRec-SA's extractor; `self_attentive_launch.py` runs them.

Forward: `attention_kernel` makes all interests, or, given targets, what training needs: each user's
interest nearest to its target, and RR. Backward: `gradients_kernel` makes the hidden layer again,
tile by tile, and each program adds the gradients of its tiles' parameters up in memory of its own;
`sum_kernel` sums the programs' in a fixed order. No atomics: the same bits every time.

A tile has BLOCK_R rows, PLACES positions of each of USERS users: whole histories, or, of one longer
than a tile, one part after the other. Its BLOCK_C columns are pairs of a user of the tile and an
interest, BLOCK_K a user; a row's routing to another user's column is 0, so that the attention of
several users is one matrix product (and the NaN of one may reach the others).

Names: B users, L positions, D dimensions, H hidden units, K interests; `_ptr` a pointer, None where
there is no such input, output or gradient. Rows past a user's length are 0 whatever they hold.
"""

import triton
import triton.language as tl

from .runtime import rounded

_INF = tl.constexpr(float("inf"))


@triton.jit
def _tanh(x):
    """To about two units in the last place, also near 0 (Cephes, tanh.c and tanhf.c)."""
    size = tl.abs(x)
    small = tl.exp(-2 * size)
    large = (1 - small) / (1 + small)
    z = x * x
    if x.dtype == tl.float64:
        p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z
        q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z
        series = (p - 1.61468768441708447952e3) / (q + 4.84406305325125486048e3)
    else:
        series = (-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2
        series = (series * z + 1.33314422036e-1) * z - 3.33332819422e-1
    return tl.where(size < 0.625, x + x * (z * series), tl.where(x < 0, -large, large))


@triton.jit
def _rows_of_tile(
    tile, start, length_ptr, B, L: tl.constexpr,
    PLACES: tl.constexpr, USERS: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Of each row the user's number in the tile, user and place; whether they are there; and
    whether the place is in the user's history."""
    rows = tl.arange(0, BLOCK_R)
    slots = rows // PLACES
    users = (tile * USERS + slots).to(tl.int64)
    places = start + rows % PLACES
    real = (slots < USERS) & (users < B) & (places < L)
    length = tl.load(length_ptr + users, mask=real, other=0)
    return slots, users, places, real, real & (places < length)


@triton.jit
def _columns_of_tile(
    tile, B, K: tl.constexpr, USERS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Of each column the user's number in the tile and among all, the interest, the number of both
    among all, and whether they are there."""
    columns = tl.arange(0, BLOCK_C)
    slots = columns // BLOCK_K
    interests = columns % BLOCK_K
    users = (tile * USERS + slots).to(tl.int64)
    real = (slots < USERS) & (users < B) & (interests < K)
    return slots, users, interests, users * K + interests, real


@triton.jit
def _load_rows(matrix_ptr, rows, present, dims, D: tl.constexpr, SUM: tl.constexpr):
    """[rows, dims] at these offsets; 0 where not `present`."""
    mask = present[:, None] & (dims < D)[None, :]
    return tl.load(matrix_ptr + rows[:, None] + dims[None, :], mask=mask, other=0.0).to(SUM)


@triton.jit
def _inputs(
    history_ptr, positions_ptr, rows, places, present, dims,
    D: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """[rows, dims] of the history with its positions added, read again wherever it is needed: it
    would not fit in the registers beside the rest."""
    history = _load_rows(history_ptr, rows, present, dims, D, SUM)
    return (history + _load_rows(positions_ptr, places * D, present, dims, D, SUM)).to(DOT)


@triton.jit
def _load_w1(w1_ptr, dims, units, D: tl.constexpr, H: tl.constexpr, DOT: tl.constexpr):
    """[dims, units]"""
    mask = (dims < D)[:, None] & (units < H)[None, :]
    return tl.load(w1_ptr + dims[:, None] * H + units[None, :], mask=mask, other=0.0).to(DOT)


@triton.jit
def _load_w2(w2_ptr, units, interests, H: tl.constexpr, K: tl.constexpr, DOT: tl.constexpr):
    """[columns, units], so that each user has its own"""
    mask = (interests < K)[:, None] & (units < H)[None, :]
    return tl.load(w2_ptr + units[None, :] * K + interests[:, None], mask=mask, other=0.0).to(DOT)


@triton.jit
def _hidden(
    history_ptr, positions_ptr, w1_ptr, rows, places, present, units,
    D: tl.constexpr, H: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[rows, units] of the hidden layer, CHUNK dimensions at a time."""
    hidden = tl.zeros([rows.shape[0], units.shape[0]], SUM)
    for start in range(0, BLOCK_D, CHUNK):
        dims = start + tl.arange(0, CHUNK)
        inputs = _inputs(history_ptr, positions_ptr, rows, places, present, dims, D, DOT, SUM)
        w1 = _load_w1(w1_ptr, dims, units, D, H, DOT)
        hidden = tl.dot(inputs, w1, hidden, input_precision=PRECISION, out_dtype=SUM)
    return _tanh(hidden)


@triton.jit
def _logits_of_tile(
    tile, start, column_slots, interests, history_ptr, length_ptr, positions_ptr, w1_ptr, w2_ptr,
    B, stride_user, stride_place,
    L: tl.constexpr, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    PLACES: tl.constexpr, USERS: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[rows, columns], -inf but for a user's own history; the rows' offsets and places; which are
    in the history; and which rows and columns are of one user."""
    slots, users, places, real, present = _rows_of_tile(
        tile, start, length_ptr, B, L, PLACES, USERS, BLOCK_R
    )
    rows = users * stride_user + places.to(tl.int64) * stride_place
    logits = tl.zeros([BLOCK_R, interests.shape[0]], SUM)
    for first_unit in range(0, H, BLOCK_H):
        units = first_unit + tl.arange(0, BLOCK_H)
        hidden = _hidden(
            history_ptr, positions_ptr, w1_ptr, rows, places, present, units,
            D, H, CHUNK, BLOCK_D, DOT, SUM, PRECISION,
        )  # fmt: skip
        w2 = _load_w2(w2_ptr, units, interests, H, K, DOT)
        logits = tl.dot(
            hidden.to(DOT), tl.trans(w2), logits, input_precision=PRECISION, out_dtype=SUM
        )
    same_user = slots[:, None] == column_slots[None, :]
    logits = tl.where(same_user & present[:, None], logits, -_INF)
    return logits, rows, places, present, same_user & real[:, None]


@triton.jit
def _with_logits(maximum, total, logits):
    """Maximum of each column, and sum of exponentials below it, with these logits, too."""
    new_maximum = tl.maximum(maximum, tl.max(logits, axis=0))
    finite = tl.where(new_maximum == -_INF, 0.0, new_maximum)  # nothing yet: no -inf less -inf
    total = total * tl.exp(maximum - finite) + tl.sum(tl.exp(logits - finite[None, :]), axis=0)
    return new_maximum, total


@triton.jit
def _first_of_the_largest(scores):
    """Of each row the column that torch.argmax takes, too: NaN wins."""
    is_nan = scores != scores
    largest = tl.max(tl.where(is_nan, -_INF, scores), axis=1)
    has_nan = tl.max(is_nan.to(tl.int32), axis=1) > 0
    wins = tl.where(has_nan[:, None], is_nan, scores == largest[:, None])
    columns = tl.arange(0, scores.shape[1])[None, :]
    return tl.min(tl.where(wins, columns, scores.shape[1]), axis=1)


@triton.jit
def _store_selected(
    tile, mixed, variance, column_users, column_rows, column_real,
    target_ptr, query_ptr, chosen_ptr, variance_ptr, rr_ptr,
    B, D: tl.constexpr, USERS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """Each user's interest nearest to its target, and RR, from all interests [columns, BLOCK_D]
    and the variances [columns] of their routing."""
    users_and_interests: tl.constexpr = [mixed.shape[0] // BLOCK_K, BLOCK_K]
    dims = tl.arange(0, BLOCK_D)
    mixed = rounded(mixed, query_ptr.dtype.element_ty)  # what is stored is compared
    target = _load_rows(target_ptr, column_users * D, column_real, dims, D, SUM)
    scores = tl.where(column_real, tl.sum(mixed.to(SUM) * target, axis=1), -_INF)
    choice = _first_of_the_largest(tl.reshape(scores, users_and_interests))
    is_chosen = choice[:, None] == tl.arange(0, BLOCK_K)[None, :]
    is_chosen = column_real & tl.reshape(is_chosen, [mixed.shape[0]])
    pointers = query_ptr + column_users[:, None] * D + dims[None, :]
    tl.store(pointers, mixed, mask=is_chosen[:, None] & (dims < D)[None, :])

    tl.store(variance_ptr + column_rows, variance, mask=column_real)
    variance = tl.where(column_real, variance, 0.0)
    rr = tl.sum(tl.reshape(variance * variance, users_and_interests), axis=1)
    slots = tl.arange(0, mixed.shape[0] // BLOCK_K)
    users = (tile * USERS + slots).to(tl.int64)
    present = (slots < USERS) & (users < B)
    tl.store(chosen_ptr + users, choice.to(tl.int64), mask=present)
    tl.store(rr_ptr + users, rounded(rr, rr_ptr.dtype.element_ty), mask=present)


@triton.jit
def attention_kernel(
    history_ptr, length_ptr, positions_ptr, w1_ptr, w2_ptr, target_ptr,
    interests_ptr, routing_ptr, query_ptr, chosen_ptr, variance_ptr, rr_ptr,
    B, stride_user, stride_place,
    L: tl.constexpr, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    PLACES: tl.constexpr, USERS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """routing (B, K, L), and interests (B, K, D); or, given target (B, D), query (B, D), chosen
    (B,), variance (B, K) and rr (B,). Grid (cdiv(B, USERS),)."""
    tile = tl.program_id(0)
    column_slots, column_users, interests, column_rows, column_real = _columns_of_tile(
        tile, B, K, USERS, BLOCK_K, BLOCK_C
    )
    maximum = tl.full([BLOCK_C], -_INF, SUM)
    total = tl.zeros([BLOCK_C], SUM)
    if L > PLACES:
        for start in range(0, L, PLACES):
            logits, _, _, _, _ = _logits_of_tile(
                tile, start, column_slots, interests,
                history_ptr, length_ptr, positions_ptr, w1_ptr, w2_ptr,
                B, stride_user, stride_place, L, D, H, K,
                PLACES, USERS, BLOCK_R, BLOCK_H, BLOCK_D, CHUNK, DOT, SUM, PRECISION,
            )  # fmt: skip
            maximum, total = _with_logits(maximum, total, logits)

    dims = tl.arange(0, BLOCK_D)
    mixed = tl.zeros([BLOCK_C, BLOCK_D], SUM)
    squares = tl.zeros([BLOCK_C], SUM)  # of the weights' distances from their mean
    for start in range(0, L, PLACES):
        logits, rows, places, present, own = _logits_of_tile(
            tile, start, column_slots, interests,
            history_ptr, length_ptr, positions_ptr, w1_ptr, w2_ptr,
            B, stride_user, stride_place, L, D, H, K,
            PLACES, USERS, BLOCK_R, BLOCK_H, BLOCK_D, CHUNK, DOT, SUM, PRECISION,
        )  # fmt: skip
        if L <= PLACES:
            maximum, total = _with_logits(maximum, total, logits)
        finite = tl.where(maximum == -_INF, 0.0, maximum)
        weights = tl.exp(logits - finite[None, :]) / tl.where(total == 0, 1.0, total)[None, :]
        history = _load_rows(history_ptr, rows, present, dims, D, SUM)
        mixed = tl.dot(
            tl.trans(weights.to(DOT)), history.to(DOT), mixed,
            input_precision=PRECISION, out_dtype=SUM,
        )  # fmt: skip
        pointers = routing_ptr + column_rows[None, :] * L + places[:, None]
        stored = rounded(weights, routing_ptr.dtype.element_ty)
        tl.store(pointers, stored, mask=own & column_real[None, :])
        if target_ptr is not None:
            distance = weights - tl.where(total == 0, total, 1.0 / L)[None, :]  # their mean
            squares += tl.sum(tl.where(own, distance * distance, 0.0), axis=0)

    if target_ptr is None:
        pointers = interests_ptr + column_rows[:, None] * D + dims[None, :]
        mask = column_real[:, None] & (dims < D)[None, :]
        tl.store(pointers, rounded(mixed, interests_ptr.dtype.element_ty), mask=mask)
    else:
        _store_selected(
            tile, mixed, squares / D, column_users, column_rows, column_real,
            target_ptr, query_ptr, chosen_ptr, variance_ptr, rr_ptr,
            B, D, USERS, BLOCK_K, BLOCK_D, SUM,
        )  # fmt: skip


@triton.jit
def _upward_rows(users, interests, column_rows, column_real, chosen_ptr):
    """Of each column the row of its interest's gradient, and whether it has one. Made, or read,
    again wherever it is needed: there are no registers to keep it."""
    if chosen_ptr is None:
        rows, learns = column_rows, column_real
    else:
        chosen = tl.load(chosen_ptr + users, mask=column_real, other=-1)
        rows, learns = users, column_real & (interests == chosen)
    return rows, learns


@triton.jit
def _rr_slopes(
    routing, users, column_rows, column_real, variance_ptr, grad_rr_ptr,
    L: tl.constexpr, D: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """[rows, columns]: RR's gradient of the routing, whose mean is 1 / L."""
    variance = tl.load(variance_ptr + column_rows, mask=column_real, other=0.0)
    gain = tl.load(grad_rr_ptr + users, mask=column_real, other=0.0).to(SUM) * (4.0 / D)
    return (gain * variance)[None, :] * (routing - 1.0 / L)


@triton.jit
def _slopes_of_tile(
    tile, start, column_slots, column_users, interests, column_rows, column_real,
    history_ptr, length_ptr, routing_ptr, upward_ptr, chosen_ptr,
    grad_routing_ptr, variance_ptr, grad_rr_ptr,
    B, stride_user, stride_place,
    L: tl.constexpr, D: tl.constexpr, PLACES: tl.constexpr, USERS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[rows, columns]: the routing and its gradient, 0 but for a user's own history."""
    slots, users, places, _, present = _rows_of_tile(
        tile, start, length_ptr, B, L, PLACES, USERS, BLOCK_R
    )
    rows = users * stride_user + places.to(tl.int64) * stride_place
    own = (slots[:, None] == column_slots[None, :]) & present[:, None] & column_real[None, :]
    offsets = column_rows[None, :] * L + places[:, None]
    routing = tl.load(routing_ptr + offsets, mask=own, other=0.0).to(SUM)
    upward_rows, learns = _upward_rows(
        column_users, interests, column_rows, column_real, chosen_ptr
    )
    slope = tl.zeros([BLOCK_R, column_rows.shape[0]], SUM)
    for first in range(0, BLOCK_D, CHUNK):
        dims = first + tl.arange(0, CHUNK)
        history = _load_rows(history_ptr, rows, present, dims, D, SUM).to(DOT)
        upward = _load_rows(upward_ptr, upward_rows * D, column_real, dims, D, SUM)
        slope = tl.dot(
            history, tl.trans(upward.to(DOT)), slope, input_precision=PRECISION, out_dtype=SUM
        )
    if chosen_ptr is not None:  # masks of what is loaded above would take registers
        slope = tl.where(learns[None, :], slope, 0.0)
    if grad_routing_ptr is not None:
        slope += tl.load(grad_routing_ptr + offsets, mask=own, other=0.0).to(SUM)
    if grad_rr_ptr is not None:
        slope += _rr_slopes(
            routing, column_users, column_rows, column_real, variance_ptr, grad_rr_ptr, L, D, SUM
        )
    return routing, tl.where(own, slope, 0.0)


@triton.jit
def _add_to(pointers, values, mask, is_first):
    """Add to what this program has written there; the first time, write."""
    before = tl.load(pointers, mask=mask & (is_first == 0), other=0.0)
    tl.store(pointers, before + values, mask=mask)


@triton.jit
def _through_the_layers(
    history_ptr, positions_ptr, w1_ptr, w2_ptr, w1_partial_ptr, w2_partial_ptr,
    rows, places, present, grad_logits, interests, is_first,
    D: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient [rows, BLOCK_D] of the inputs; those of W1 and W2 are added to this program's."""
    columns = tl.arange(0, interests.shape[0])
    grad_inputs = tl.zeros([rows.shape[0], BLOCK_D], SUM)
    for first_unit in range(0, H, BLOCK_H):
        units = first_unit + tl.arange(0, BLOCK_H)
        hidden = _hidden(
            history_ptr, positions_ptr, w1_ptr, rows, places, present, units,
            D, H, CHUNK, BLOCK_D, DOT, SUM, PRECISION,
        )  # fmt: skip
        grad_w2 = tl.dot(
            tl.trans(grad_logits), hidden.to(DOT), input_precision=PRECISION, out_dtype=SUM
        )
        w2_pointers = w2_partial_ptr + columns[:, None] * H + units[None, :]
        _add_to(w2_pointers, grad_w2, (units < H)[None, :], is_first)
        w2 = _load_w2(w2_ptr, units, interests, H, K, DOT)
        slope = tl.dot(grad_logits, w2, input_precision=PRECISION, out_dtype=SUM)
        slope = (slope * (1 - hidden * hidden)).to(DOT)
        for start in range(0, BLOCK_D, CHUNK):
            dims = start + tl.arange(0, CHUNK)
            inputs = _inputs(history_ptr, positions_ptr, rows, places, present, dims, D, DOT, SUM)
            grad_w1 = tl.dot(tl.trans(inputs), slope, input_precision=PRECISION, out_dtype=SUM)
            w1_pointers = w1_partial_ptr + dims[:, None] * H + units[None, :]
            _add_to(w1_pointers, grad_w1, (dims < D)[:, None] & (units < H)[None, :], is_first)
        w1 = _load_w1(w1_ptr, tl.arange(0, BLOCK_D), units, D, H, DOT)
        grad_inputs = tl.dot(
            slope, tl.trans(w1), grad_inputs, input_precision=PRECISION, out_dtype=SUM
        )
    return grad_inputs


@triton.jit
def gradients_kernel(
    history_ptr, length_ptr, positions_ptr, w1_ptr, w2_ptr, routing_ptr, upward_ptr,
    grad_routing_ptr, chosen_ptr, variance_ptr, grad_rr_ptr, grad_history_ptr, partials_ptr,
    B, tiles, stride_user, stride_place,
    L: tl.constexpr, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    PLACES: tl.constexpr, USERS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the history (B, L, D); grid (parts,).

    upward: the gradient of all interests (B, K, D), or, given chosen (B,), of the query (B, D).
    partials (parts, D H + BLOCK_C H + USERS L D): each program's sums of the gradients of W1; of
    W2, transposed, one for each user of a tile; and of the positions, one for each, too.
    """
    part = tl.program_id(0)
    w1_partial_ptr = partials_ptr + part.to(tl.int64) * (D * H + BLOCK_C * H + USERS * L * D)
    w2_partial_ptr = w1_partial_ptr + D * H
    positions_partial_ptr = w2_partial_ptr + BLOCK_C * H
    dims = tl.arange(0, BLOCK_D)
    for tile in range(part, tiles, tl.num_programs(0)):
        column_slots, column_users, interests, column_rows, column_real = _columns_of_tile(
            tile, B, K, USERS, BLOCK_K, BLOCK_C
        )
        mean = tl.zeros([BLOCK_C], SUM)  # of the routing's gradient, by the routing
        if L > PLACES:
            for start in range(0, L, PLACES):
                routing, slope = _slopes_of_tile(
                    tile, start, column_slots, column_users, interests, column_rows, column_real,
                    history_ptr, length_ptr, routing_ptr, upward_ptr, chosen_ptr,
                    grad_routing_ptr, variance_ptr, grad_rr_ptr,
                    B, stride_user, stride_place,
                    L, D, PLACES, USERS, BLOCK_R, BLOCK_D, CHUNK, DOT, SUM, PRECISION,
                )  # fmt: skip
                mean += tl.sum(routing * slope, axis=0)
        for start in range(0, L, PLACES):
            routing, slope = _slopes_of_tile(
                tile, start, column_slots, column_users, interests, column_rows, column_real,
                history_ptr, length_ptr, routing_ptr, upward_ptr, chosen_ptr,
                grad_routing_ptr, variance_ptr, grad_rr_ptr,
                B, stride_user, stride_place,
                L, D, PLACES, USERS, BLOCK_R, BLOCK_D, CHUNK, DOT, SUM, PRECISION,
            )  # fmt: skip
            if L <= PLACES:
                mean = tl.sum(routing * slope, axis=0)
            grad_logits = (routing * (slope - mean[None, :])).to(DOT)
            slots, users, places, real, present = _rows_of_tile(
                tile, start, length_ptr, B, L, PLACES, USERS, BLOCK_R
            )
            grad_inputs = _through_the_layers(
                history_ptr, positions_ptr, w1_ptr, w2_ptr, w1_partial_ptr, w2_partial_ptr,
                users * stride_user + places.to(tl.int64) * stride_place, places, present,
                grad_logits, interests, (tile == part) & (start == 0),
                D, H, K, BLOCK_H, BLOCK_D, CHUNK, DOT, SUM, PRECISION,
            )  # fmt: skip
            pointers = positions_partial_ptr + ((slots * L + places) * D)[:, None] + dims[None, :]
            mask = ((slots < USERS) & (places < L))[:, None] & (dims < D)[None, :]
            _add_to(pointers, grad_inputs, mask, tile == part)
            upward_rows, learns = _upward_rows(
                column_users, interests, column_rows, column_real, chosen_ptr
            )
            upward = _load_rows(upward_ptr, upward_rows * D, learns, dims, D, SUM)
            gradient = tl.dot(
                routing.to(DOT), upward.to(DOT), grad_inputs,
                input_precision=PRECISION, out_dtype=SUM,
            )  # fmt: skip
            pointers = grad_history_ptr + ((users * L + places) * D)[:, None] + dims[None, :]
            gradient = rounded(gradient, grad_history_ptr.dtype.element_ty)
            tl.store(pointers, gradient, mask=real[:, None] & (dims < D)[None, :])
            tl.debug_barrier()  # a sum of one thread may be another's to add to next


@triton.jit
def sum_kernel(
    partials_ptr, out_ptr, parts,
    L: tl.constexpr, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr, USERS: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The parts' gradients of W1 (D, H), W2 (H, K) and positions (L, D), one after the other in
    `out`, summed over the parts and a tile's users; grid (cdiv(D H + H K + L D, BLOCK),)."""
    out = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    of_w2 = out - D * H
    of_positions = of_w2 - H * K
    source = tl.where(of_w2 < 0, out, D * H + of_w2 % K * H + of_w2 // K)
    source = tl.where(of_positions < 0, source, D * H + BLOCK_C * H + of_positions)
    stride_user = tl.where(of_positions < 0, BLOCK_K * H, L * D)
    inside = out < D * H + H * K + L * D
    total = tl.zeros([BLOCK], partials_ptr.dtype.element_ty)
    for user in range(USERS):
        mask = inside & ((user == 0) | (of_w2 >= 0))
        for start in range(0, parts, BLOCK_P):
            rows = (start + tl.arange(0, BLOCK_P)).to(tl.int64)
            offsets = rows * (D * H + BLOCK_C * H + USERS * L * D)
            pointers = partials_ptr + offsets[:, None] + (source + user * stride_user)[None, :]
            values = tl.load(pointers, mask=(rows < parts)[:, None] & mask[None, :], other=0.0)
            total += tl.sum(values, axis=0)
    tl.store(out_ptr + out, rounded(total, out_ptr.dtype.element_ty), mask=inside)
