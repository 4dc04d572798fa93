"""Runs the Triton kernels of `deferred_adam_triton.py`: buffers, block sizes, launches.

Nothing here waits for the GPU, and nothing depends on the values of tensors, so that a step can be
captured in a CUDA graph.
"""

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import deferred_adam_triton as kernels
from .deferred_adam_state import AdamState, DeviceSteps, StepTable
from .runtime import launch

_ELEMENTS = 512  # of a block of rows, for four warps
_MAX_ROWS = 16  # of 32 Triton 3.6 makes code that it refuses
_CHUNK = 32  # sorted ids whose gradients are summed at a time
_CHUNK_ELEMENTS = 8192  # fewer ids where rows are long: what the registers hold
_TERMS = 256  # missed steps, of all rows of a block, that are added up at a time
_REGISTERS = 128  # the compiler would rather spill some than have fewer programs at a time


class SortedIds(NamedTuple):
    """The ids of a gather in ascending order; it depends on them only, not on any step.

    ids (n,) int32, -1 for those outside the table; order (n,) int64: where each occurred, those of
    equal ids in the order they came in.
    """

    ids: Tensor
    order: Tensor


def sort_ids(ids: Tensor, num_rows: int) -> SortedIds:
    """ids (n,) int64 of a table of `num_rows` rows, below 2^31."""
    outside = (ids < 0) | (ids >= num_rows)
    return SortedIds(*ids.masked_fill(outside, -1).to(torch.int32).sort(stable=True))


def catch_up(
    state: AdamState, steps: StepTable, rows: SortedIds | None, found_inf: Tensor | None = None
) -> None:
    """Bring these rows, or all, up to date in place.

    found_inf, float32 of one: if that is not 0, nothing is changed.
    """
    device_steps, sizes = steps.on(state.weight.device), _sizes(state)
    count = len(state.weight) if rows is None else len(rows.ids)
    launch(
        kernels.catch_up_kernel,
        (triton.cdiv(count, sizes["ROWS"]),),
        *_tensors(state), None if rows is None else rows.ids, *_steps(device_steps), found_inf,
        count, LOG2_BETA1=_log2(steps.beta1), LOG2_BETA2=_log2(steps.beta2),
        **_missed(steps, sizes), **sizes, maxnreg=_REGISTERS,
    )  # fmt: skip


def read(state: AdamState, steps: StepTable, ids: Tensor, *, up_to_date: bool = False) -> Tensor:
    """Copies of the rows `ids` (n,) int64, caught up unless they are `up_to_date`: (n, d)."""
    device_steps, sizes = steps.on(state.weight.device), _sizes(state)
    num_rows, dim = state.weight.shape
    out = torch.empty((len(ids), dim), dtype=torch.float32, device=ids.device)
    launch(
        kernels.read_kernel,
        (triton.cdiv(len(ids), sizes["ROWS"]),),
        *_tensors(state), ids, out, *_steps(device_steps), len(ids), num_rows,
        CATCH_UP=not up_to_date, **_missed(steps, sizes), **sizes, maxnreg=_REGISTERS,
    )  # fmt: skip
    return out


def carry(state: AdamState, rows: SortedIds, gradients: Tensor) -> Tensor:
    """What `update` first makes of the gradients (n, d): it reads nothing of the state."""
    sizes, count = _sizes(state), len(rows.ids)
    chunk = _chunk(sizes)
    chunks = triton.cdiv(count, chunk)
    out = torch.empty((chunks, sizes["D"]), dtype=torch.float32, device=gradients.device)
    launch(
        kernels.carry_kernel,
        (chunks,),
        gradients.contiguous(), *rows, out, count,
        D=sizes["D"], CHUNK=chunk, BLOCK_D=sizes["BLOCK_D"],
    )  # fmt: skip
    return out


def update(
    state: AdamState,
    steps: StepTable,
    rows: SortedIds,
    gradients: Tensor,
    found_inf: Tensor | None = None,
    carried: Tensor | None = None,
) -> None:
    """The current step of rows that are up to date; gradients (n, d), one an occurrence.

    found_inf, float32 of one: if that is not 0, nothing is changed.
    carried: what `carry` made of the gradients, if that was done before.
    """
    device_steps, sizes, count = steps.on(state.weight.device), _sizes(state), len(rows.ids)
    gradients = gradients.contiguous()
    carried = carry(state, rows, gradients) if carried is None else carried
    chunk = _chunk(sizes)
    sizes["ROWS"] = min(sizes["ROWS"], chunk)  # a block lies in one chunk: all are powers of 2
    launch(
        kernels.update_kernel,
        (triton.cdiv(count, sizes["ROWS"]),),
        *_tensors(state), gradients, *rows, carried, *_steps(device_steps)[:3], found_inf,
        count,
        BETA1=steps.beta1, REST1=1 - steps.beta1, BETA2=steps.beta2, REST2=1 - steps.beta2,
        EPS=steps.eps, CHUNK=chunk, **sizes, maxnreg=_REGISTERS,
    )  # fmt: skip


def _tensors(state: AdamState) -> tuple[Tensor, ...]:
    return state.weight, state.exp_avg, state.exp_avg_sq, state.stamp


def _steps(steps: DeviceSteps) -> tuple[Tensor, ...]:
    return steps.step, steps.step_size, steps.inv_sqrt_correction, steps.decay


def _missed(steps: StepTable, sizes: dict[str, int]) -> dict[str, float]:
    """What the kernels that make up for missed steps know when they are compiled."""
    return {
        "EPS": steps.eps,
        "HORIZON": steps.horizon,
        "SETTLED": steps.settled,
        "LONGEST": steps.longest_segment,
        "BLOCK_K": _TERMS // sizes["ROWS"],
    }


def _sizes(state: AdamState) -> dict[str, int]:
    """Dimensions, and rows a program works on."""
    dim = state.weight.shape[1]
    block = triton.next_power_of_2(dim)
    rows = min(_MAX_ROWS, max(1, _ELEMENTS // block))
    return {"D": dim, "STRIDE": state.weight.stride(0), "ROWS": rows, "BLOCK_D": block}


def _chunk(sizes: dict[str, int]) -> int:
    """Sorted ids whose gradients are summed at a time."""
    return min(_CHUNK, max(1, _CHUNK_ELEMENTS // sizes["BLOCK_D"]))


def _log2(beta: float) -> float:
    return math.log2(beta) if beta > 0 else -1e4  # 2 to that power is 0
