"""Runs the Triton kernels of `ihn_loss_triton.py`: tile sizes, buffers, launches.

Nothing here waits for the GPU, and nothing depends on the values of tensors, so that a call can be
captured in a CUDA graph.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import ihn_loss_triton as kernels
from .runtime import (
    DOT_TYPES,
    dot_block,
    dot_precision,
    dot_types,
    has_warpgroups,
    launch,
    sum_type,
)

_PROGRAMS = 264  # two for each multiprocessor of an H100 or H200
_STAGES = 2
_SPLITS_A_TIME = 16
_MAX_ROOT = 12  # beta = A / Q with A + Q up to this: one exponential instead of two


@dataclass(frozen=True)
class Tiles:
    """Users and negatives a program works on at a time, and how it is compiled."""

    users: int
    negatives: int
    warps: int
    chunk: int = 256  # dimensions of a score multiplied at a time: fewer need fewer registers
    registers: int | None = None  # else the compiler may spill a few, to have more programs run


@dataclass(frozen=True)
class Problem:
    """What is computed, apart from the tensors.

    source: where the rows are. "rows": target (B, D) and negatives (N, D). "table": both are the
    table (I, D), target_ids and negative_ids its rows. "catalogue": likewise, and the negatives
    are all its rows but row 0.
    """

    beta: float
    detach_weights: bool
    log_scale: float
    dtype: torch.dtype  # that the scores are multiplied in
    source: str
    num_negatives: int
    mask: bool  # leave negatives out whose id is the user's target
    draw: bool = False  # draw negative_ids from (seed, step)
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


class Outputs(NamedTuple):
    """Results of the forward launches; the last two are for the backward."""

    loss: Tensor  # (B,)
    chosen: Tensor  # (B,) int64
    rr: Tensor  # (B,), or (0,) without routing
    negative_ids: Tensor  # (N,) int64 where they were drawn, else (0,)
    row_stats: Tensor  # (4, B)
    slope: Tensor  # (B, D), or (0, D) where the interests need no gradient


class Gradients(NamedTuple):
    """Results of the backward launches; (0,) where one was not asked for."""

    interests: Tensor  # (B, K, D)
    target: Tensor  # (B, D)
    negatives: Tensor  # (N, D), of a catalogue (I, D)
    routing: Tensor  # (B, K, L)


# By arithmetic and padded dimension: the largest that compile without spilled registers for sm_80,
# sm_90 and sm_100 (bench/compile_report.py). sm_90's own instruction, HGMMA, is four warps times 64
# rows; with fewer users (forward) or negatives (backward) it is sm_80's. tf32x3, which keeps every
# number twice, has 64 rows up to 64 dimensions only, and never where there is no HGMMA. For float64
# Triton uses no tensor cores on sm_100. Under autocast float32 rows are read and rounded.
_FORWARD = {
    "half": {64: Tiles(64, 64, 4), 128: Tiles(64, 64, 8), 256: Tiles(32, 32, 8)},
    "half from float32": {64: Tiles(64, 32, 8), 128: Tiles(64, 64, 8), 256: Tiles(32, 32, 8)},
    "half from float32 without warpgroups": {
        64: Tiles(64, 32, 8),
        128: Tiles(32, 64, 8),
        256: Tiles(32, 32, 8),
    },
    "tf32": {64: Tiles(64, 32, 4, registers=255), 128: Tiles(64, 32, 8), 256: Tiles(32, 32, 8)},
    "tf32x3": {64: Tiles(64, 16, 4, chunk=32), 256: Tiles(16, 32, 8, chunk=32)},
    "tf32x3 without warpgroups": {64: Tiles(32, 32, 8), 256: Tiles(16, 32, 8, chunk=32)},
    "float64": {
        64: Tiles(16, 16, 4),
        128: Tiles(16, 16, 8, chunk=32),
        256: Tiles(8, 16, 8, chunk=32),
    },
}
_BACKWARD = {
    "half": {64: Tiles(64, 64, 4), 256: Tiles(64, 64, 8)},
    "half from float32": {256: Tiles(64, 64, 8)},
    "tf32": {
        64: Tiles(64, 64, 4, registers=255),
        128: Tiles(64, 64, 8, registers=255),
        256: Tiles(32, 32, 8),
    },
    "tf32x3": {64: Tiles(32, 64, 4), 128: Tiles(32, 32, 8), 256: Tiles(16, 32, 8, chunk=32)},
    "tf32x3 without warpgroups": {
        64: Tiles(64, 32, 8, registers=255),
        128: Tiles(32, 32, 8),
        256: Tiles(16, 32, 8, chunk=32),
    },
    "float64": {128: Tiles(16, 16, 4), 256: Tiles(16, 16, 8)},
}


def forward_tiles(batch: int, dim: int, dtype: torch.dtype, rows: torch.dtype) -> Tiles:
    """Tiles of the forward pass; a small batch gets small ones, so that they are many.

    dtype: that the scores are multiplied in; rows: the widest that is read.
    """
    tiles = _lookup(_FORWARD, dim, dtype, rows)
    return replace(tiles, negatives=min(tiles.negatives, 32)) if batch <= 128 else tiles


def backward_tiles(dim: int, dtype: torch.dtype, rows: torch.dtype) -> Tiles:
    """Tiles of the pass over the negatives; a program keeps its negatives."""
    return _lookup(_BACKWARD, dim, dtype, rows)


def _lookup(
    table: dict[str, dict[int, Tiles]], dim: int, dtype: torch.dtype, rows: torch.dtype
) -> Tiles:
    half = "half from float32" if rows == torch.float32 else "half"
    names = {torch.float64: "float64", torch.float32: dot_precision(dtype)}
    name = names.get(dtype, half)
    if not has_warpgroups() and f"{name} without warpgroups" in table:
        name += " without warpgroups"
    tiles = table[name][min(size for size in table[name] if size >= dim)]
    # Other rows are read number by number: more threads share the registers for the addresses.
    return tiles if dim % 16 == 0 else replace(tiles, warps=8)


def outputs(
    interests: Tensor, routing: Tensor | None, drawn: int, dtype: torch.dtype, with_slope: bool
) -> Outputs:
    """Uninitialised results of `forward`."""
    batch, _, dim = interests.shape
    empty, sums = interests.new_empty, sum_type(dtype)
    return Outputs(
        loss=empty(batch, dtype=sums),
        chosen=empty(batch, dtype=torch.int64),
        rr=empty(0 if routing is None else batch, dtype=sums),
        negative_ids=empty(drawn, dtype=torch.int64),
        row_stats=empty((4, batch), dtype=sums),
        slope=empty((batch if with_slope else 0, dim), dtype=sums),
    )


def gradients(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    routing: Tensor | None,
    problem: Problem,
    wanted: list[bool],
) -> Gradients:
    """Uninitialised gradients of interests, target rows, negatives and routing, where wanted."""
    batch, num_interests, dim = interests.shape
    rows = len(negatives) if problem.source == "catalogue" else problem.num_negatives
    empty = interests.new_empty
    return Gradients(
        empty((batch, num_interests, dim) if wanted[0] else 0),
        empty((batch, dim) if wanted[1] else 0, dtype=target.dtype),
        empty((rows, dim) if wanted[2] else 0, dtype=negatives.dtype),
        empty(0) if routing is None or not wanted[3] else routing.new_empty(routing.shape),
    )


def forward(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    routing: Tensor | None,
    target_ids: Tensor | None,
    negative_ids: Tensor | None,
    importance: Tensor | None,
    target_log_q: Tensor | None,
    device_step: Tensor | None,
    problem: Problem,
    *,
    with_slope: bool,
) -> Outputs:
    """interests (B, K, D), target and negatives as `problem.source` says, `importance` (N,) the
    weights 1 / q up to a common factor, `device_step` one number in the place of problem.step.
    """
    interests, target, negatives = map(_unit_stride, (interests, target, negatives))
    target_ids, negative_ids = _dense(target_ids), _dense(negative_ids)
    importance, target_log_q = _dense(importance), _dense(target_log_q)
    out = outputs(
        interests, routing, problem.num_negatives if problem.draw else 0, problem.dtype, with_slope
    )
    if problem.draw:
        negative_ids = out.negative_ids
    batch, num_interests, dim = interests.shape
    widest = _widest(interests, target, negatives)
    tiles = forward_tiles(batch, dim, problem.dtype, widest)
    blocks = triton.cdiv(batch, tiles.users)
    splits, split_columns = _splits(problem.num_negatives, tiles.negatives, blocks)
    empty, sums, rows = interests.new_empty, sum_type(problem.dtype), (splits, batch, dim)
    hard_rows = empty(rows, dtype=sums) if with_slope else None
    weight_rows = empty(rows, dtype=sums) if with_slope and not problem.one_sum else None
    partial_sums = empty((3, splits, batch), dtype=sums)
    walked = _walked(negatives, problem)
    a, q = problem.root
    launch(
        kernels.partials_kernel,
        (blocks, splits),
        interests, target, target_ids, walked, negative_ids, importance, device_step,
        out.chosen, partial_sums, hard_rows, weight_rows,
        batch, problem.num_negatives, split_columns, len(negatives),
        interests.stride(0), interests.stride(1), target.stride(0), negatives.stride(0),
        problem.beta, problem.seed, problem.step,
        K=num_interests, D=dim, A=a, Q=q, GATHER_TARGET=problem.source != "rows",
        GATHER_NEGATIVES=problem.source == "table", DRAW=problem.draw, MASK=problem.mask,
        BLOCK_B=tiles.users, BLOCK_N=tiles.negatives, BLOCK_D=dot_block(dim),
        CHUNK=min(tiles.chunk, dot_block(dim)), **dot_types(problem.dtype),
        num_warps=tiles.warps, num_stages=_STAGES, maxnreg=tiles.registers,
    )  # fmt: skip
    launch(
        kernels.combine_kernel,
        (batch,),
        interests, target, target_ids, target_log_q, routing, out.chosen,
        partial_sums, hard_rows, weight_rows,
        out.loss, out.rr, out.row_stats, out.slope if with_slope else None,
        batch, splits, 0 if routing is None else routing.shape[2], len(target),
        interests.stride(0), interests.stride(1), target.stride(0), *_strides(routing),
        problem.beta, problem.log_scale,
        K=num_interests, D=dim, A=a, Q=q, GATHER_TARGET=problem.source != "rows",
        DETACH=problem.detach_weights, SUM=DOT_TYPES[sums],
        BLOCK_S=_SPLITS_A_TIME, BLOCK_D=dot_block(dim), BLOCK_L=_block_of(routing),
        maxnreg=255 if sums == torch.float64 else None,  # it spills a few by itself
    )  # fmt: skip
    return out


def backward_negatives(
    interests: Tensor,
    negatives: Tensor,
    target_ids: Tensor | None,
    negative_ids: Tensor | None,
    importance: Tensor | None,
    chosen: Tensor,
    row_stats: Tensor,
    grad_loss: Tensor,
    problem: Problem,
    out: Tensor,
) -> None:
    """Gradient of each negative's row into `out` (N, D); of a catalogue, (I, D) with the targets'
    part and 0 in row 0."""
    interests, negatives = map(_unit_stride, (interests, negatives))
    target_ids, negative_ids = _dense(target_ids), _dense(negative_ids)
    importance = _dense(importance)
    dim = interests.shape[2]
    tiles = backward_tiles(dim, problem.dtype, _widest(interests, negatives))
    a, q = problem.root
    if problem.source == "catalogue":
        out[0].zero_()
    launch(
        kernels.negative_gradients_kernel,
        (triton.cdiv(problem.num_negatives, tiles.negatives),),
        interests, chosen, target_ids, _walked(negatives, problem), negative_ids, importance,
        row_stats, grad_loss, _walked(out, problem),
        len(interests), problem.num_negatives, len(negatives),
        interests.stride(0), interests.stride(1), negatives.stride(0), grad_loss.stride(0),
        problem.beta,
        D=dim, A=a, Q=q, GATHER_NEGATIVES=problem.source == "table", MASK=problem.mask,
        TARGETS_TOO=problem.source == "catalogue", ONE_SUM=problem.one_sum,
        BLOCK_B=tiles.users, BLOCK_N=tiles.negatives, BLOCK_D=dot_block(dim),
        CHUNK=min(tiles.chunk, dot_block(dim)), **dot_types(problem.dtype),
        num_warps=tiles.warps, num_stages=_STAGES, maxnreg=tiles.registers,
    )  # fmt: skip


def backward_rows(
    interests: Tensor,
    routing: Tensor | None,
    chosen: Tensor,
    row_stats: Tensor,
    slope: Tensor,
    grad_loss: Tensor | None,
    grad_rr: Tensor | None,
    out: Gradients,
) -> None:
    """Gradients of interests, target rows and routing into those of `out` that are not (0,)."""
    interests = _unit_stride(interests)
    batch, num_interests, dim = interests.shape
    launch(
        kernels.row_gradients_kernel,
        (batch,),
        interests, chosen, routing, row_stats, slope, grad_loss, grad_rr,
        *(gradient if gradient.ndim > 1 else None for gradient in (out[0], out[1], out[3])),
        batch, 0 if routing is None else routing.shape[2],
        interests.stride(0), interests.stride(1), *_strides(routing),
        0 if grad_loss is None else grad_loss.stride(0),
        0 if grad_rr is None else grad_rr.stride(0),
        K=num_interests, D=dim, SUM=DOT_TYPES[row_stats.dtype],
        BLOCK_K=triton.next_power_of_2(num_interests), BLOCK_D=dot_block(dim),
        BLOCK_L=_block_of(routing),
    )  # fmt: skip


def _splits(count: int, tile: int, blocks: int) -> tuple[int, int]:
    """How many parts the negatives are walked in, and negatives a part: enough programs to fill
    the GPU, whole tiles, no part empty."""
    tiles = max(triton.cdiv(count, tile), 1)
    tiles_a_split = max(tiles // max(triton.cdiv(_PROGRAMS, max(blocks, 1)), 1), 1)
    return triton.cdiv(tiles, tiles_a_split), tiles_a_split * tile


def _widest(*tensors: Tensor) -> torch.dtype:
    return max((tensor.dtype for tensor in tensors), key=lambda dtype: dtype.itemsize)


def _walked(rows: Tensor, problem: Problem) -> Tensor:
    """What the kernels number from 0: of a catalogue, the rows after the padding row."""
    return rows[1:] if problem.source == "catalogue" else rows


def _unit_stride(x: Tensor) -> Tensor:
    """x with neighbouring elements in its last dimension; rows may lie anywhere."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _dense(x: Tensor | None) -> Tensor | None:
    """A vector, if there is one, without gaps: the kernels take no strides for these."""
    return None if x is None else x.contiguous()


def _strides(routing: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if routing is None else routing.stride()


def _block_of(routing: Tensor | None) -> int:
    return 1 if routing is None else min(triton.next_power_of_2(max(routing.shape[2], 1)), 256)
