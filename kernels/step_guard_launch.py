"""Runs the Triton kernel of `step_guard_triton.py`. Nothing here waits or depends on values."""

import triton
from torch import Tensor

from . import step_guard_triton as kernels
from .deferred_adam_state import AdamState
from .runtime import launch
from .step_guard import StepGuard, StepMade

_ELEMENTS = 2048  # of a program


def look(
    guard: StepGuard, step: Tensor, made: StepMade, state: AdamState, rr_weight: float
) -> None:
    """See `step_guard.look`."""
    num_rows, dim = state.weight.shape
    block = triton.next_power_of_2(dim)
    rows = max(1, _ELEMENTS // block)
    row_programs = triton.cdiv(len(made.ids), rows)
    ranking, gradients = made.ranking.contiguous(), made.gradients.contiguous()
    rr = None if made.rr is None else made.rr.contiguous()
    dense = tuple(tensor.detach().contiguous() for tensor in made.dense)
    sizes = tuple(tensor.numel() for tensor in dense)
    dense_programs = sum(triton.cdiv(size, _ELEMENTS) for size in sizes)
    launch(
        kernels.look_kernel,
        (1 + row_programs + dense_programs,),
        guard.found_inf, guard.forward, guard.losses, step, ranking, rr,
        made.ids, gradients, state.exp_avg, state.exp_avg_sq, dense, sizes,
        len(made.ranking), len(made.ids), num_rows, rr_weight,
        CAPACITY=guard.capacity, DENSE=len(dense), D=dim, STRIDE=state.weight.stride(0),
        ROWS=rows, BLOCK_D=block, BLOCK=_ELEMENTS,
    )  # fmt: skip
