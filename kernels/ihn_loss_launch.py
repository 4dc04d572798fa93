"""Runs the Triton kernels of `ihn_loss_triton.py`: tile sizes, buffers, launches.

Nothing here waits for the GPU, and nothing depends on the values of tensors, so that a call can be
captured in a CUDA graph.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import ihn_loss_triton as kernels
from .runtime import DOT_TYPES, dot_precision, launch

MAX_DIM = 256
MAX_INTERESTS = 16
_PROGRAMS = 264  # two for each multiprocessor of an H100 or H200
_STAGES = 2
_MAX_ROOT = 12  # beta = A / Q with A + Q up to this: one exponential instead of two


@dataclass(frozen=True)
class Tiles:
    """Users and negatives a program works on at a time, and how it is compiled."""

    users: int
    negatives: int
    warps: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is computed, apart from the tensors: `ihn_loss` explains each."""

    beta: float
    detach_weights: bool
    log_scale: float
    dtype: torch.dtype  # that the scores are multiplied in
    num_negatives: int
    gather_target: bool = False  # target is a table, target_ids its rows
    gather_negatives: bool = False  # negatives is a table, negative_ids its rows
    mask: bool = False  # leave negatives out whose id is the row's target
    draw: bool = False  # draw the negative ids from (seed, step)
    seed: int = 0
    step: int = 0

    @property
    def root(self) -> tuple[int, int]:
        """(A, Q) with beta = A / Q where small integers do, else (0, 0)."""
        for q in range(1, _MAX_ROOT):
            a = round(self.beta * q)
            if a + q <= _MAX_ROOT and abs(a - self.beta * q) <= 1e-12 * q:
                return a, q
        return 0, 0

    @property
    def one_sum(self) -> bool:
        """Whether exp(beta s) has no part in the gradient."""
        return self.beta == 0 or self.detach_weights

    @property
    def sum_type(self) -> torch.dtype:
        """The dtype of sums, losses and statistics."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


class Forward(NamedTuple):
    """Results of the forward launches, the last two for the backward."""

    loss: Tensor  # (B,)
    chosen: Tensor  # (B,) int64
    rr: Tensor  # (B,), or (0,) without routing
    negative_ids: Tensor  # (N,) int64 where they were drawn, else (0,)
    row_stats: Tensor  # (4, B)
    slope: Tensor  # (B, D), or (0, D) where the interests need no gradient


# (users, negatives, warps) a program, by arithmetic and padded dimension: the largest that compile
# without spilled registers for sm_80, sm_90 and sm_100 (bench/compile_report.py).
_FORWARD = {
    "half": {64: (64, 64, 4), 128: (64, 64, 8), 256: (64, 32, 8)},
    "tf32": {64: (64, 64, 8), 128: (64, 32, 8), 256: (32, 32, 8)},
    "tf32x3": {64: (64, 32, 8), 128: (16, 32, 8), 256: (16, 32, 8)},
    "float64": {256: (16, 16, 4)},
}
_BACKWARD = {
    "half": {64: (64, 64, 4), 128: (64, 64, 8), 256: (64, 64, 8)},
    "tf32": {64: (64, 64, 8), 128: (64, 64, 8), 256: (32, 32, 8)},
    "tf32x3": {64: (32, 64, 4), 128: (32, 32, 8), 256: (16, 16, 8)},
    "float64": {256: (16, 16, 4)},
}


def forward_tiles(batch: int, dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the forward pass; a small batch gets small ones, so that they are many."""
    users, negatives, warps = _lookup(_FORWARD, dim, dtype)
    return Tiles(users, min(negatives, 32) if batch <= 128 else negatives, warps)


def backward_tiles(dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the pass over the negatives; a program keeps its negatives."""
    return Tiles(*_lookup(_BACKWARD, dim, dtype))


def _lookup(
    table: dict[str, dict[int, tuple[int, int, int]]], dim: int, dtype: torch.dtype
) -> tuple[int, int, int]:
    names = {torch.float64: "float64", torch.float32: dot_precision(dtype)}
    sizes = table[names.get(dtype, "half")]
    return sizes[min(size for size in sizes if size >= dim)]


def forward(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    target_ids: Tensor | None,
    negative_ids: Tensor | None,
    importance: Tensor | None,
    target_log_q: Tensor | None,
    routing: Tensor | None,
    step: Tensor | None,
    problem: Problem,
    *,
    with_slope: bool,
) -> Forward:
    """interests (B, K, D), target (B, D) or (I, D), negatives (N, D) or (I, D), `importance` (N,)
    the weights 1 / q up to a common factor, `step` a 0-d or 1-element tensor in the place of
    problem.step.
    """
    interests, target, negatives = map(_unit_stride, (interests, target, negatives))
    batch, num_interests, dim = interests.shape
    count, sum_type = problem.num_negatives, problem.sum_type
    tiles = forward_tiles(batch, dim, problem.dtype)
    blocks = triton.cdiv(batch, tiles.users)
    splits, split_columns = _splits(count, tiles.negatives, blocks)
    empty = interests.new_empty
    rows = (splits, batch, dim)
    hard_rows = empty(rows, dtype=sum_type) if with_slope else None
    weight_rows = empty(rows, dtype=sum_type) if with_slope and not problem.one_sum else None
    partial_sums = empty((3, splits, batch), dtype=sum_type)
    drawn = empty(count if problem.draw else 0, dtype=torch.int64)
    out = Forward(
        loss=empty(batch, dtype=sum_type),
        chosen=empty(batch, dtype=torch.int64),
        rr=empty(0 if routing is None else batch, dtype=sum_type),
        negative_ids=drawn,
        row_stats=empty((4, batch), dtype=sum_type),
        slope=empty((batch if with_slope else 0, dim), dtype=sum_type),
    )
    a, q = problem.root
    launch(
        kernels.partials_kernel,
        (blocks, splits),
        interests, target, target_ids, negatives, drawn if problem.draw else negative_ids,
        importance, step, out.chosen, partial_sums, hard_rows, weight_rows,
        batch, count, split_columns, len(negatives),
        interests.stride(0), interests.stride(1), target.stride(0), negatives.stride(0),
        problem.beta, problem.seed, problem.step,
        K=num_interests, D=dim, A=a, Q=q,
        GATHER_TARGET=problem.gather_target, GATHER_NEGATIVES=problem.gather_negatives,
        DRAW=problem.draw, MASK=problem.mask, **_types(problem),
        BLOCK_B=tiles.users, BLOCK_N=tiles.negatives, BLOCK_D=_block(dim),
        CHUNK=_chunk(dim, problem.dtype),
        num_warps=tiles.warps, num_stages=_STAGES,
    )  # fmt: skip
    launch(
        kernels.combine_kernel,
        (batch,),
        interests, target, target_ids, target_log_q, routing, out.chosen,
        partial_sums, hard_rows, weight_rows,
        out.loss, out.rr, out.row_stats, out.slope if with_slope else None,
        batch, splits, 0 if routing is None else routing.shape[2], len(target),
        interests.stride(0), interests.stride(1), target.stride(0), *_routing_strides(routing),
        problem.beta, problem.log_scale,
        K=num_interests, D=dim, A=a, Q=q,
        GATHER_TARGET=problem.gather_target, DETACH=problem.detach_weights,
        SUM=DOT_TYPES[sum_type], BLOCK_S=16, BLOCK_D=_block(dim), BLOCK_L=_block_of(routing),
    )  # fmt: skip
    return out


def backward_negatives(
    interests: Tensor,
    chosen: Tensor,
    negatives: Tensor,
    target_ids: Tensor | None,
    negative_ids: Tensor | None,
    importance: Tensor | None,
    row_stats: Tensor,
    grad_loss: Tensor,
    problem: Problem,
) -> Tensor:
    """Gradient of each negative's row: (N, D) of the dtype of `negatives`."""
    interests, negatives = map(_unit_stride, (interests, negatives))
    batch, _, dim = interests.shape
    count = problem.num_negatives
    tiles = backward_tiles(dim, problem.dtype)
    gradient = negatives.new_empty((count, dim))
    a, q = problem.root
    launch(
        kernels.negative_gradients_kernel,
        (triton.cdiv(count, tiles.negatives),),
        interests, chosen, target_ids, negatives, negative_ids, importance,
        row_stats, grad_loss, gradient,
        batch, count, len(negatives), interests.stride(0), interests.stride(1),
        negatives.stride(0), grad_loss.stride(0), problem.beta,
        D=dim, A=a, Q=q, GATHER_NEGATIVES=problem.gather_negatives, MASK=problem.mask,
        ONE_SUM=problem.one_sum, **_types(problem),
        BLOCK_B=tiles.users, BLOCK_N=tiles.negatives, BLOCK_D=_block(dim),
        num_warps=tiles.warps, num_stages=_STAGES,
    )  # fmt: skip
    return gradient


def backward_rows(
    interests: Tensor,
    chosen: Tensor,
    routing: Tensor | None,
    row_stats: Tensor,
    slope: Tensor | None,
    grad_loss: Tensor | None,
    grad_rr: Tensor | None,
    target_dtype: torch.dtype | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the interests (if `slope`), of the target rows (if `target_dtype`) and of the
    routing (if `grad_rr`)."""
    interests = _unit_stride(interests)
    batch, num_interests, dim = interests.shape
    grad_interests = None if slope is None else torch.empty_like(interests).contiguous()
    grad_target = None
    if target_dtype is not None:
        grad_target = interests.new_empty((batch, dim), dtype=target_dtype)
    grad_routing = None
    if grad_rr is not None and routing is not None:
        grad_routing = routing.new_empty(routing.shape)
    launch(
        kernels.row_gradients_kernel,
        (batch,),
        interests, chosen, routing, row_stats, slope, grad_loss, grad_rr,
        grad_interests, grad_target, grad_routing,
        batch, 0 if routing is None else routing.shape[2],
        interests.stride(0), interests.stride(1), *_routing_strides(routing),
        0 if grad_loss is None else grad_loss.stride(0),
        0 if grad_rr is None else grad_rr.stride(0),
        K=num_interests, D=dim, SUM=DOT_TYPES[row_stats.dtype],
        BLOCK_K=triton.next_power_of_2(num_interests), BLOCK_D=_block(dim),
        BLOCK_L=_block_of(routing),
    )  # fmt: skip
    return grad_interests, grad_target, grad_routing


def _splits(count: int, tile: int, blocks: int) -> tuple[int, int]:
    """How many parts the negatives are walked in, and negatives a part: enough programs to fill
    the GPU, whole tiles, no part empty."""
    tiles = max(triton.cdiv(count, tile), 1)
    tiles_a_split = max(tiles // max(triton.cdiv(_PROGRAMS, blocks), 1), 1)
    return triton.cdiv(tiles, tiles_a_split), tiles_a_split * tile


def _types(problem: Problem) -> dict[str, tl.dtype | str]:
    return {
        "DOT": DOT_TYPES[problem.dtype],
        "SUM": DOT_TYPES[problem.sum_type],
        "PRECISION": dot_precision(problem.dtype),
    }


def _unit_stride(x: Tensor) -> Tensor:
    """x with neighbouring elements in its last dimension; rows may lie anywhere."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _routing_strides(routing: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if routing is None else routing.stride()


def _block(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


def _chunk(dim: int, dtype: torch.dtype) -> int:
    """Dimensions of a score multiplied at a time: all, unless the registers are too few."""
    return 64 if dim > 128 and dot_precision(dtype) == "tf32x3" else _block(dim)


def _block_of(routing: Tensor | None) -> int:
    return 1 if routing is None else min(triton.next_power_of_2(routing.shape[2]), 256)
