"""Triton kernels of capsule routing; `capsule_routing_launch.py` runs them.

What is routed are rows r_l: the votes for one interest; or, where one matrix W makes all votes
(`weight_ptr`, else None), the history itself, and the votes are never made: the sum of c_l W r_l is
W times that of c_l r_l, and W r_l . v is r_l . W^T v. After any iterations the logits are the
initial ones and r_l . q, for one query q: the sum of the iterations' W^T v. So no logits are kept.

Forward: `routing_kernel`. Backward: the `_gradients_kernel`s route again and leave the rows'
gradients as one or three terms, each a coefficient a row and a vector; `spread_kernel` sums them.
No atomics: the same bits every time. Formulas: docs/method.md.

Programs are one user's and one interest's; rows past the user's length are 0 whatever they hold.
L positions, D dimensions; `_ptr` a pointer; a tile is [BLOCK_L, BLOCK_D].
"""

import triton
import triton.language as tl

from .runtime import rounded

_INF = tl.constexpr(float("inf"))
_TINY = tl.constexpr(1.1754943508222875e-38)  # smallest normal float


@triton.jit
def _load_vector(vector_ptr, D: tl.constexpr, BLOCK_D: tl.constexpr, SUM: tl.constexpr):
    dims = tl.arange(0, BLOCK_D)
    return tl.load(vector_ptr + dims, mask=dims < D, other=0.0).to(SUM)


@triton.jit
def _store_vector(vector_ptr, vector, D: tl.constexpr, BLOCK_D: tl.constexpr):
    dims = tl.arange(0, BLOCK_D)
    tl.store(vector_ptr + dims, rounded(vector, vector_ptr.dtype.element_ty), mask=dims < D)


@triton.jit
def _load_rows(
    rows_ptr, places, length, stride_place,
    D: tl.constexpr, BLOCK_D: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """A tile: the rows at these places."""
    dims = tl.arange(0, BLOCK_D)
    pointers = rows_ptr + places[:, None] * stride_place + dims[None, :]
    mask = (places < length)[:, None] & (dims < D)[None, :]
    return tl.load(pointers, mask=mask, other=0.0).to(SUM)


@triton.jit
def _logits_after(rows, query, logits_ptr, places, L, stride_logit):
    """[places] logits: the initial ones and what the iterations so far have added; -inf from L."""
    logits = tl.load(logits_ptr + places * stride_logit, mask=places < L, other=-_INF)
    return logits.to(rows.dtype) + tl.sum(rows * query[None, :], axis=1)


@triton.jit
def _mix(
    query, rows_ptr, logits_ptr, length, L, stride_place, stride_logit,
    D: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Maximum and sum of the softmax over the logits after `query`, and the rows mixed by it."""
    maximum = tl.full((), -_INF, SUM)
    total = tl.zeros((), SUM)
    mixed = tl.zeros([BLOCK_D], SUM)
    for start in range(0, L, BLOCK_L):
        places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        rows = _load_rows(rows_ptr, places, length, stride_place, D, BLOCK_D, SUM)
        logits = _logits_after(rows, query, logits_ptr, places, L, stride_logit)
        new_maximum = tl.maximum(maximum, tl.max(logits, axis=0))
        shrink = tl.exp(maximum - new_maximum)
        weights = tl.exp(logits - new_maximum)
        total = total * shrink + tl.sum(weights, axis=0)
        mixed = mixed * shrink + tl.sum(weights[:, None] * rows, axis=0)
        maximum = new_maximum
    return maximum, total, mixed / total


@triton.jit
def _product(
    vector, weight_ptr, STRIDE_OUT: tl.constexpr, STRIDE_IN: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """W times a vector, CHUNK of its numbers at a time; with swapped strides W^T. None: W is 1."""
    if weight_ptr is None:
        product = vector
    else:
        outs = tl.arange(0, BLOCK_D)
        chunks = tl.reshape(vector, [BLOCK_D // CHUNK, CHUNK])
        product = tl.zeros([BLOCK_D], vector.dtype)
        for i in range(BLOCK_D // CHUNK):
            here = tl.arange(0, BLOCK_D // CHUNK) == i
            chunk = tl.sum(tl.where(here[:, None], chunks, 0.0), axis=0)
            ins = i * CHUNK + tl.arange(0, CHUNK)
            pointers = weight_ptr + ins[:, None] * STRIDE_IN + outs[None, :] * STRIDE_OUT
            mask = (ins < D)[:, None] & (outs < D)[None, :]
            weight = tl.load(pointers, mask=mask, other=0.0).to(vector.dtype)
            product += tl.sum(weight * chunk[:, None], axis=0)
    return product


@triton.jit
def _squash(vector):
    """v |v| / (1 + |v|^2)."""
    square = tl.sum(vector * vector, axis=0)
    return vector * (tl.sqrt(square) / (1 + square))


@triton.jit
def _squash_gradient(vector, gradient):
    """Gradient of `vector` from that of its squash; 0 at 0."""
    square = tl.sum(vector * vector, axis=0)
    norm = tl.sqrt(tl.maximum(square, _TINY))
    unit = vector / norm
    along = tl.sum(unit * gradient, axis=0) * (1 - square) / (1 + square)
    return (gradient + along * unit) * (norm / (1 + square))


@triton.jit
def routing_kernel(
    rows_ptr, length_ptr, weight_ptr, logits_ptr, interests_ptr, routing_ptr, L,
    stride_user, stride_interest, stride_place,
    stride_logits_user, stride_logits_interest, stride_logit,
    D: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """Three iterations; grid (B, K). interests (B, K, D), routing (B, K, L)."""
    user, interest = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    program = user * tl.num_programs(1) + interest
    length = tl.minimum(tl.load(length_ptr + user), L)
    rows_ptr += user * stride_user + interest * stride_interest
    logits_ptr += user * stride_logits_user + interest * stride_logits_interest

    query = tl.zeros([BLOCK_D], SUM)
    for _ in range(2):
        _, _, mixed = _mix(
            query, rows_ptr, logits_ptr, length, L, stride_place, stride_logit,
            D, BLOCK_L, BLOCK_D, SUM,
        )  # fmt: skip
        squashed = _squash(_product(mixed, weight_ptr, D, 1, D, BLOCK_D, CHUNK))
        query += _product(squashed, weight_ptr, 1, D, D, BLOCK_D, CHUNK)
    maximum, total, mixed = _mix(
        query, rows_ptr, logits_ptr, length, L, stride_place, stride_logit, D, BLOCK_L, BLOCK_D, SUM
    )
    squashed = _squash(_product(mixed, weight_ptr, D, 1, D, BLOCK_D, CHUNK))
    _store_vector(interests_ptr + program * D, squashed, D, BLOCK_D)

    for start in range(0, L, BLOCK_L):
        places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        rows = _load_rows(rows_ptr, places, length, stride_place, D, BLOCK_D, SUM)
        logits = _logits_after(rows, query, logits_ptr, places, L, stride_logit)
        routing = tl.where(places < length, tl.exp(logits - maximum) / total, 0.0)
        routing = rounded(routing, routing_ptr.dtype.element_ty)
        tl.store(routing_ptr + program * L + places, routing, mask=places < L)


@triton.jit
def last_iteration_gradients_kernel(
    rows_ptr, length_ptr, weight_ptr, routing_ptr, grad_interests_ptr,
    coefficients_ptr, vectors_ptr, vote_vectors_ptr, mixed_ptr, L,
    stride_user, stride_interest, stride_place,
    TERMS: tl.constexpr, D: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The first term, all that there is as published: the routing times the sum's gradient.

    Grid (B, K). Of TERMS terms coefficients (B, K, TERMS, L) and vectors (B, K, TERMS, D), whose
    products are the rows' gradients; with W also mixed, the rows mixed by these coefficients, and
    vote_vectors, whose products are W's gradient.
    """
    user, interest = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    program = user * tl.num_programs(1) + interest
    length = tl.minimum(tl.load(length_ptr + user), L)
    rows_ptr += user * stride_user + interest * stride_interest
    routing_ptr += program * L
    coefficients_ptr += program * TERMS * L

    mixed = tl.zeros([BLOCK_D], SUM)
    for start in range(0, L, BLOCK_L):
        places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        rows = _load_rows(rows_ptr, places, length, stride_place, D, BLOCK_D, SUM)
        routing = tl.load(routing_ptr + places, mask=places < length, other=0.0).to(SUM)
        tl.store(coefficients_ptr + places, routing, mask=places < L)
        mixed += tl.sum(routing[:, None] * rows, axis=0)
    summed = _product(mixed, weight_ptr, D, 1, D, BLOCK_D, CHUNK)
    gradient = _load_vector(grad_interests_ptr + program * D, D, BLOCK_D, SUM)
    gradient = _squash_gradient(summed, gradient)
    along = _product(gradient, weight_ptr, 1, D, D, BLOCK_D, CHUNK)
    _store_vector(vectors_ptr + program * TERMS * D, along, D, BLOCK_D)
    if weight_ptr is not None:
        _store_vector(vote_vectors_ptr + program * TERMS * D, gradient, D, BLOCK_D)
        _store_vector(mixed_ptr + program * TERMS * D, mixed, D, BLOCK_D)


@triton.jit
def last_update_gradients_kernel(
    rows_ptr, length_ptr, weight_ptr, logits_ptr, routing_ptr, grad_routing_ptr,
    coefficients_ptr, vectors_ptr, vote_vectors_ptr, mixed_ptr, L,
    stride_user, stride_interest, stride_place,
    stride_logits_user, stride_logits_interest, stride_logit,
    TERMS: tl.constexpr, D: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The second and third of three terms, where routing has a gradient: the logits' gradient times
    the v that they were updated by, and the routing that made v times the gradient of its sum.

    Grid (B, K); arguments as above, whose first term is read.
    """
    user, interest = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    program = user * tl.num_programs(1) + interest
    length = tl.minimum(tl.load(length_ptr + user), L)
    rows_ptr += user * stride_user + interest * stride_interest
    logits_ptr += user * stride_logits_user + interest * stride_logits_interest
    routing_ptr += program * L
    grad_routing_ptr += program * L
    coefficients_ptr += program * TERMS * L
    vectors_ptr += program * TERMS * D

    query = tl.zeros([BLOCK_D], SUM)
    _, _, mixed = _mix(
        query, rows_ptr, logits_ptr, length, L, stride_place, stride_logit, D, BLOCK_L, BLOCK_D, SUM
    )
    squashed = _squash(_product(mixed, weight_ptr, D, 1, D, BLOCK_D, CHUNK))
    query = _product(squashed, weight_ptr, 1, D, D, BLOCK_D, CHUNK)
    maximum, total, mixed = _mix(
        query, rows_ptr, logits_ptr, length, L, stride_place, stride_logit, D, BLOCK_L, BLOCK_D, SUM
    )
    summed = _product(mixed, weight_ptr, D, 1, D, BLOCK_D, CHUNK)

    along = _load_vector(vectors_ptr, D, BLOCK_D, SUM)
    mean = tl.zeros((), SUM)  # of the last routing's gradient, by that routing
    for start in range(0, L, BLOCK_L):
        places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        rows = _load_rows(rows_ptr, places, length, stride_place, D, BLOCK_D, SUM)
        routing = tl.load(routing_ptr + places, mask=places < length, other=0.0).to(SUM)
        slope = tl.load(grad_routing_ptr + places, mask=places < length, other=0.0).to(SUM)
        mean += tl.sum(routing * (slope + tl.sum(rows * along[None, :], axis=1)), axis=0)
    mixed_by_slope = tl.zeros([BLOCK_D], SUM)
    for start in range(0, L, BLOCK_L):
        places = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        rows = _load_rows(rows_ptr, places, length, stride_place, D, BLOCK_D, SUM)
        routing = tl.load(routing_ptr + places, mask=places < length, other=0.0).to(SUM)
        slope = tl.load(grad_routing_ptr + places, mask=places < length, other=0.0).to(SUM)
        slope = routing * (slope + tl.sum(rows * along[None, :], axis=1) - mean)
        tl.store(coefficients_ptr + L + places, slope, mask=places < L)
        mixed_by_slope += tl.sum(slope[:, None] * rows, axis=0)
        logits = _logits_after(rows, query, logits_ptr, places, L, stride_logit)
        before = tl.where(places < length, tl.exp(logits - maximum) / total, 0.0)
        tl.store(coefficients_ptr + 2 * L + places, before, mask=places < L)

    squashed = _squash(summed)
    along = _product(squashed, weight_ptr, 1, D, D, BLOCK_D, CHUNK)
    _store_vector(vectors_ptr + D, along, D, BLOCK_D)
    gradient = _product(mixed_by_slope, weight_ptr, D, 1, D, BLOCK_D, CHUNK)
    gradient = _squash_gradient(summed, gradient)
    along = _product(gradient, weight_ptr, 1, D, D, BLOCK_D, CHUNK)
    _store_vector(vectors_ptr + 2 * D, along, D, BLOCK_D)
    if weight_ptr is not None:
        vote_vectors_ptr += program * TERMS * D
        mixed_ptr += program * TERMS * D
        _store_vector(vote_vectors_ptr + D, squashed, D, BLOCK_D)
        _store_vector(mixed_ptr + D, mixed_by_slope, D, BLOCK_D)
        _store_vector(vote_vectors_ptr + 2 * D, gradient, D, BLOCK_D)
        _store_vector(mixed_ptr + 2 * D, mixed, D, BLOCK_D)


@triton.jit
def spread_kernel(
    coefficients_ptr, vectors_ptr, gradients_ptr, L, stride_user, stride_interest, stride_place,
    TERMS: tl.constexpr, D: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of rows: the sum over TERMS vectors of coefficient times vector; grid
    (B, K, cdiv(L, BLOCK_L)), or with the rows shared (B, 1, ...) and the TERMS of all interests."""
    user, interest = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    first = (user * tl.num_programs(1) + interest) * TERMS
    places = (tl.program_id(2) * BLOCK_L + tl.arange(0, BLOCK_L)).to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    gradients = tl.zeros([BLOCK_L, BLOCK_D], SUM)
    for term in range(first, first + TERMS):
        coefficients = tl.load(coefficients_ptr + term * L + places, mask=places < L, other=0.0)
        vector = _load_vector(vectors_ptr + term * D, D, BLOCK_D, SUM)
        gradients += coefficients[:, None] * vector[None, :]
    gradients_ptr += user * stride_user + interest * stride_interest
    pointers = gradients_ptr + places[:, None] * stride_place + dims[None, :]
    gradients = rounded(gradients, gradients_ptr.dtype.element_ty)
    tl.store(pointers, gradients, mask=(places < L)[:, None] & (dims < D)[None, :])
