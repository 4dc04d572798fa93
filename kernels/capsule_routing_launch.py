"""Runs the Triton kernels of `capsule_routing_triton.py`: rows, block sizes, launches.

Nothing here waits for the GPU, and nothing depends on the values of tensors, so that a call can be
captured in a CUDA graph. Votes by one matrix are never made; others are there for a tile of users
at a time, by torch's matrix product, in the forward pass and again in the backward pass.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import capsule_routing_triton as kernels
from .runtime import DOT_TYPES, dot_block, launch, sum_type

TILE_ELEMENTS = 1 << 23  # of the votes that are there at a time: an L2 cache holds them
_BLOCK_ELEMENTS = 2048  # of a tile of rows, or of the matrix, for four warps
_REGISTERS = 255  # else the compiler may spill a few, to have more programs run


class Routed(NamedTuple):
    """What a launch routes, and for how many."""

    rows: Tensor  # (B, K or 1, L, d); those of padding may hold anything
    length: Tensor  # (B,)
    weight: Tensor | None  # (d, d), that makes votes of the rows; contiguous
    logits: Tensor  # (B or 1, K, L)

    @property
    def grid(self) -> tuple[int, int]:
        """A program for each user and interest."""
        return len(self.rows), self.logits.shape[1]

    @property
    def strides(self) -> tuple[int, ...]:
        """L and the strides, 0 where all share what there is one of."""
        rows, logits = self.rows, self.logits
        return (
            rows.shape[2], rows.stride(0), rows.stride(1) * (rows.shape[1] > 1), rows.stride(2),
            logits.stride(0) * (len(logits) > 1), logits.stride(1), logits.stride(2),
        )  # fmt: skip

    @property
    def sizes(self) -> dict[str, Any]:
        """What the kernels know when they are compiled."""
        sizes = _sizes(self.rows)
        block = sizes["BLOCK_D"]
        return sizes | {"CHUNK": min(block, _BLOCK_ELEMENTS // block)}


def forward(
    history: Tensor, length: Tensor, weight: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """See `kernels.reference.capsule_routing`."""
    batch, positions, dim = history.shape
    num_interests = logits.shape[1]
    interests = history.new_empty((batch, num_interests, dim))
    routing = history.new_empty((batch, num_interests, positions))
    for users in _tiles(history, weight, num_interests):
        routed = _routed(history, length, weight, logits, users)
        launch(
            kernels.routing_kernel,
            routed.grid,
            *routed, interests[users], routing[users], *routed.strides, **routed.sizes,
            maxnreg=_REGISTERS,
        )  # fmt: skip
    return interests, routing


def backward(
    history: Tensor,
    length: Tensor,
    weight: Tensor,
    logits: Tensor,
    routing: Tensor,
    grad_interests: Tensor,
    grad_routing: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of history and weight; grad_routing None: routing has none."""
    _, positions, dim = history.shape
    grad_history = torch.empty_like(history, memory_format=torch.contiguous_format)
    grad_weight = torch.zeros_like(weight, dtype=sum_type(weight.dtype))
    for users in _tiles(history, weight, logits.shape[1]):
        routed = _routed(history, length, weight, logits, users)
        slope = None if grad_routing is None else grad_routing[users]
        terms = _terms(routed, routing[users], grad_interests[users], slope)
        if terms.of_weight is None:
            seen = history[users].transpose(0, 1)
            grad_votes = history.new_empty((positions, seen.shape[1], weight.shape[1]))
            _spread(terms, _by_user(grad_votes, dim))
            grad_weight += grad_votes.transpose(1, 2) @ seen
            grad_history[users] = (grad_votes @ weight).transpose(0, 1)
        else:
            _spread(terms, grad_history[:, None])
            left, right = (x.flatten(0, 2) for x in terms.of_weight)
            grad_weight += left.T @ right
    return grad_history, grad_weight.to(weight.dtype)


class Terms(NamedTuple):
    """The T terms of the gradients: those of the rows are coefficients times vectors."""

    coefficients: Tensor  # (B, K, T, L)
    vectors: Tensor  # (B, K, T, d)
    # Of a matrix: the votes' gradients are coefficients times the first; the rows mixed by the
    # coefficients are the second. Both (B, K, T, d).
    of_weight: tuple[Tensor, Tensor] | None


def _terms(
    routed: Routed, routing: Tensor, grad_interests: Tensor, grad_routing: Tensor | None
) -> Terms:
    _, _, positions, dim = routed.rows.shape
    count = 1 if grad_routing is None else 3
    shape, sums = (*routed.grid, count), sum_type(routing.dtype)
    coefficients = routing.new_empty((*shape, positions), dtype=sums)
    vectors = routing.new_empty((*shape, dim), dtype=sums)
    of_weight = None
    if routed.weight is not None:
        of_weight = torch.empty_like(vectors), torch.empty_like(vectors)
    results = coefficients, vectors, *(of_weight or (None, None))
    options = {"TERMS": count, "maxnreg": _REGISTERS} | routed.sizes
    launch(
        kernels.last_iteration_gradients_kernel,
        routed.grid,
        *routed[:3], routing, grad_interests, *results, *routed.strides[:4],
        **options,
    )  # fmt: skip
    if grad_routing is not None:
        launch(
            kernels.last_update_gradients_kernel,
            routed.grid,
            *routed, routing, grad_routing, *results, *routed.strides,
            **options,
        )  # fmt: skip
    return Terms(coefficients, vectors, of_weight)


def _spread(terms: Terms, out: Tensor) -> None:
    """Gradients of rows into `out` (B, K, L, d), or (B, 1, L, d): their sum over the interests."""
    batch, parts, positions, _ = out.shape
    sizes = _sizes(out)
    launch(
        kernels.spread_kernel,
        (batch, parts, triton.cdiv(positions, sizes["BLOCK_L"])),
        terms.coefficients, terms.vectors, out, positions, *out.stride()[:3],
        TERMS=terms.vectors[0].numel() // (parts * out.shape[3]), **sizes,
    )  # fmt: skip


def _tiles(history: Tensor, weight: Tensor, num_interests: int) -> list[slice]:
    """The users whose votes are there at a time; all of them where votes are never made."""
    batch, positions, dim = history.shape
    size = max(batch, 1)
    if weight.ndim == 3:
        size = max(TILE_ELEMENTS // (num_interests * positions * dim), 1)
    return [slice(start, start + size) for start in range(0, batch, size)]


def _routed(
    history: Tensor, length: Tensor, weight: Tensor, logits: Tensor, users: slice
) -> Routed:
    rows, length = history[users], length[users]
    logits = logits if len(logits) == 1 else logits[users]
    if weight.ndim == 2:
        return Routed(rows[:, None], length, weight, logits)
    votes = rows.transpose(0, 1) @ weight.transpose(1, 2)  # (L, B, K d)
    return Routed(_by_user(votes, history.shape[2]), length, None, logits)


def _by_user(votes: Tensor, dim: int) -> Tensor:
    """Votes (L, B, K d) seen as (B, K, L, d)."""
    return votes.view(*votes.shape[:2], -1, dim).permute(1, 2, 0, 3)


def _sizes(rows: Tensor) -> dict[str, Any]:
    """Dimensions, and a block of rows."""
    positions, dim = rows.shape[2:]
    block = dot_block(dim)
    places = min(triton.next_power_of_2(positions), max(_BLOCK_ELEMENTS // block, 1))
    return {"D": dim, "BLOCK_L": places, "BLOCK_D": block, "SUM": DOT_TYPES[sum_type(rows.dtype)]}
