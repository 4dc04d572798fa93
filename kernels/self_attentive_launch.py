"""Runs the Triton kernels of `self_attentive_triton.py`: tile sizes, launches.

Nothing here waits for the GPU, and nothing depends on the values of tensors, so that a call can be
captured in a CUDA graph.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import self_attentive_triton as kernels
from .runtime import dot_block, dot_precision, dot_types, launch, sum_type

_PROGRAMS = 132  # multiprocessors of an H100 or H200
_STAGES = 2
_REGISTERS = 255  # else the compiler may spill a few, to have more programs run
_SUMMED = 32  # outputs that a program sums the parts of
_PARTS_A_TIME = 32


@dataclass(frozen=True)
class Tiles:
    """Rows (positions of users) and hidden units a program works on at a time; its warps."""

    rows: int
    hidden: int
    warps: int
    chunk: int = 256  # dimensions multiplied at a time: fewer need fewer registers


# By arithmetic and padded dimension: the largest that compile without spilled registers for sm_80,
# sm_90 and sm_100 (bench/compile_report.py).
_FORWARD = {
    "half": {
        64: Tiles(64, 64, 4),
        128: Tiles(64, 32, 8, chunk=32),
        256: Tiles(32, 32, 8, chunk=32),
    },
    "tf32": {
        64: Tiles(64, 64, 8),
        128: Tiles(32, 32, 8, chunk=32),
        256: Tiles(16, 32, 8, chunk=32),
    },
    "tf32x3": {
        64: Tiles(32, 32, 8, chunk=32),
        128: Tiles(32, 32, 8, chunk=16),
        256: Tiles(16, 32, 8, chunk=16),
    },
    "float64": {256: Tiles(16, 16, 8, chunk=16)},
}
_BACKWARD = {
    "half": {
        64: Tiles(64, 32, 8, chunk=32),
        128: Tiles(32, 32, 8, chunk=32),
        256: Tiles(16, 32, 8, chunk=32),
    },
    "half from float32": {128: Tiles(32, 32, 8, chunk=16)},
    "tf32": {
        64: Tiles(32, 64, 8, chunk=32),
        128: Tiles(32, 32, 8, chunk=16),
        256: Tiles(16, 32, 8, chunk=16),
    },
    "tf32x3": {
        64: Tiles(16, 64, 8, chunk=16),
        128: Tiles(16, 32, 8, chunk=16),
        256: Tiles(16, 16, 8, chunk=16),
    },
    "float64": {256: Tiles(16, 16, 8, chunk=16)},
}


def forward_tiles(history: Tensor, interests: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the forward pass; dtype: that products are made in."""
    return _many(_lookup(_FORWARD, history, dtype), history, interests)


def backward_tiles(history: Tensor, interests: int, dtype: torch.dtype) -> Tiles:
    """Tiles of the backward pass."""
    return _many(_lookup(_BACKWARD, history, dtype), history, interests)


def _lookup(table: dict[str, dict[int, Tiles]], history: Tensor, dtype: torch.dtype) -> Tiles:
    names = {torch.float64: "float64", torch.float32: dot_precision(dtype)}
    half = "half from float32" if history.dtype == torch.float32 else "half"
    tiles = table.get(names.get(dtype, half), table["half"])
    return tiles[min(size for size in tiles if size >= history.shape[2])]


def _many(tiles: Tiles, history: Tensor, interests: int) -> Tiles:
    """With fewer rows where there would be fewer tiles than multiprocessors, and where histories
    are longer than a tile: the loops over their parts need registers, too."""
    batch, positions, _ = history.shape
    rows = tiles.rows if positions <= tiles.rows else max(tiles.rows // 2, 16)
    while rows // 2 >= max(positions, 16) and (
        triton.cdiv(batch, _users(rows, positions, interests)) < _PROGRAMS
    ):
        rows //= 2
    return replace(tiles, rows=rows)


def _users(rows: int, positions: int, interests: int) -> int:
    """How many have their rows and their columns in a tile."""
    return max(rows // max(positions, triton.next_power_of_2(interests)), 1)


class Selected(NamedTuple):
    """Results of `select`; the last two are for the backward."""

    query: Tensor  # (B, d)
    chosen: Tensor  # (B,) int64
    rr: Tensor  # (B,)
    routing: Tensor  # (B, K, L)
    variance: Tensor  # (B, K) of the routing, in the dtype of sums


def forward(
    history: Tensor,
    length: Tensor,
    positions: Tensor,
    w1: Tensor,
    w2: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `kernels.reference.self_attentive_extractor`; products are made in `dtype`.

    Only the history may have gaps, but none between its dimensions.
    """
    batch, num_positions, dim = history.shape
    interests = history.new_empty((batch, w2.shape[1], dim))
    routing = history.new_empty((batch, w2.shape[1], num_positions))
    outputs = interests, routing, None, None, None, None
    _attend(history, length, positions, w1, w2, None, outputs, dtype)
    return interests, routing


def select(
    history: Tensor,
    length: Tensor,
    positions: Tensor,
    w1: Tensor,
    w2: Tensor,
    target: Tensor,
    dtype: torch.dtype,
) -> Selected:
    """See `kernels.reference.self_attentive_query`; otherwise as `forward`."""
    batch, num_positions, dim = history.shape
    made = Selected(
        query=history.new_empty((batch, dim)),
        chosen=history.new_empty(batch, dtype=torch.int64),
        rr=history.new_empty(batch),
        routing=history.new_empty((batch, w2.shape[1], num_positions)),
        variance=history.new_empty((batch, w2.shape[1]), dtype=sum_type(dtype)),
    )
    outputs = None, made.routing, made.query, made.chosen, made.variance, made.rr
    _attend(history, length, positions, w1, w2, target, outputs, dtype)
    return made


def _attend(
    history: Tensor,
    length: Tensor,
    positions: Tensor,
    w1: Tensor,
    w2: Tensor,
    target: Tensor | None,
    outputs: tuple[Tensor | None, ...],
    dtype: torch.dtype,
) -> None:
    batch, _, dim = history.shape
    tiles = forward_tiles(history, w2.shape[1], dtype)
    sizes = _sizes(history, w2, tiles)
    launch(
        kernels.attention_kernel,
        (triton.cdiv(batch, sizes["USERS"]),),
        history, length, positions, w1, w2, target, *outputs,
        batch, history.stride(0), history.stride(1),
        **sizes, **_blocks(tiles, dim), **dot_types(dtype),
        num_warps=tiles.warps, num_stages=_STAGES, maxnreg=_REGISTERS,
    )  # fmt: skip


def backward(
    history: Tensor,
    length: Tensor,
    positions: Tensor,
    w1: Tensor,
    w2: Tensor,
    routing: Tensor,
    upward: Tensor,
    grad_routing: Tensor | None,
    dtype: torch.dtype,
    *,
    chosen: Tensor | None = None,
    variance: Tensor | None = None,
    grad_rr: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of history, positions, w1 and w2.

    upward: the gradient of the interests (B, K, d) of `forward`, or, with `chosen` (B,), of the
    query (B, d) of `select`. grad_routing, or grad_rr with its `variance`: None if there is none.
    Of float32 rows wider than 128, products are made in float32 whatever `dtype` is.
    """
    batch, _, dim = history.shape
    hidden = len(w2)
    if history.dtype == torch.float32 and dim > max(_BACKWARD["half from float32"]):
        dtype = torch.float32  # rounding rows takes registers that wide ones do not leave
    tiles = backward_tiles(history, w2.shape[1], dtype)
    sizes = _sizes(history, w2, tiles)
    count = triton.cdiv(batch, sizes["USERS"])
    parts = triton.cdiv(count, max(triton.cdiv(count, _PROGRAMS), 1))
    grad_history = torch.empty_like(history, memory_format=torch.contiguous_format)
    users, columns = sizes["USERS"], sizes["BLOCK_C"]
    size = (dim + columns) * hidden + users * positions.numel()
    partials = history.new_empty((parts, size), dtype=sum_type(dtype))
    launch(
        kernels.gradients_kernel,
        (parts,),
        history, length, positions, w1, w2, routing, upward, grad_routing,
        chosen, variance, grad_rr, grad_history, partials,
        batch, count, history.stride(0), history.stride(1),
        **sizes, **_blocks(tiles, dim), **dot_types(dtype),
        num_warps=tiles.warps, num_stages=_STAGES, maxnreg=_REGISTERS,
    )  # fmt: skip
    of_w2, of_positions = w1.numel(), w1.numel() + w2.numel()
    summed = w1.new_empty(of_positions + positions.numel())
    del sizes["PLACES"], sizes["BLOCK_R"]
    launch(
        kernels.sum_kernel,
        (triton.cdiv(len(summed), _SUMMED),),
        partials, summed, parts,
        **sizes, BLOCK=_SUMMED, BLOCK_P=_PARTS_A_TIME,
    )  # fmt: skip
    grad_w1 = summed[:of_w2].view_as(w1)
    grad_w2 = summed[of_w2:of_positions].view_as(w2)
    return grad_history, summed[of_positions:].view_as(positions), grad_w1, grad_w2


def _sizes(history: Tensor, w2: Tensor, tiles: Tiles) -> dict[str, int]:
    """What is there, and how a tile is divided among users."""
    _, positions, dim = history.shape
    hidden, interests = w2.shape
    users = _users(tiles.rows, positions, interests)
    block = triton.next_power_of_2(interests)
    columns = max(triton.next_power_of_2(users) * block, 16)
    return {
        "L": positions, "D": dim, "H": hidden, "K": interests,
        "PLACES": min(positions, tiles.rows), "USERS": users, "BLOCK_R": tiles.rows,
        "BLOCK_K": block, "BLOCK_C": columns,
    }  # fmt: skip


def _blocks(tiles: Tiles, dim: int) -> dict[str, int]:
    block = dot_block(dim)
    return {"BLOCK_H": tiles.hidden, "BLOCK_D": block, "CHUNK": min(tiles.chunk, block)}
