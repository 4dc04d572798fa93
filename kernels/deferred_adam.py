"""Dense Adam on an item table at the cost of the rows that are touched.

A row is brought up to date just before it is read: the steps it missed (their gradient was 0) are
replayed, or summed in closed form, and only then is it used. Reference: the replay
(`kernels.reference.adam_catch_up`), any dtype and device. Native: C++, float32 on the CPU. Triton:
float32 on a GPU.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import reference
from .checks import check_ids
from .deferred_adam_state import AdamState, StepTable
from .dispatch import choose
from .finite import first_non_finite
from .native import C

if TYPE_CHECKING:  # Triton is imported where it runs
    from .deferred_adam_launch import SortedIds


MOMENTS = ("exp_avg", "exp_avg_sq")


class GatheredRows:
    """The ids of one gather, grouped by row, so that its gradients can be summed in fixed order.

    It depends on the ids only: it can be made before the step it is for, on a GPU on another
    stream, too.
    """

    def __init__(self, ids: Tensor, num_rows: int) -> None:
        """ids: any shape, integers in [0, num_rows), num_rows below 2^31.

        On the CPU an id outside raises IndexError, which names the first. A GPU would have to be
        waited for: there its rows are NaN, and its gradients are dropped.
        """
        check_ids("ids", ids, ids.device)
        if num_rows >= 2**31:
            raise ValueError(f"num_rows: got {num_rows}, expected fewer than 2^31")
        self.ids = ids.detach().reshape(-1).to(torch.int64).contiguous()
        self.num_rows = num_rows
        self.plan: C.GatherPlan | None = None  # the C++ grouping of the ids (CPU only)
        if self.ids.device.type == "cpu":
            self.plan = C.GatherPlan(self.ids.numpy(), num_rows)
        else:
            _ = self.sorted

    @cached_property
    def sorted(self) -> "SortedIds":
        """The Triton kernels' grouping of the ids."""
        from .deferred_adam_launch import sort_ids

        return sort_ids(self.ids, self.num_rows)


def gather(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    *,
    check_moments: bool = False,
    found_inf: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Bring the rows up to date in place and return copies, one an occurrence: (n, d).

    found_inf: as of `update`; where it is not 0, the copies are of rows as they are.

    check_moments: raise FloatingPointError where a moment of one of the rows is infinite or NaN, of
    rows that are up to date then. On the CPU only: a GPU would have to be waited for. (The row
    itself needs no look: what is computed of it shows in its gradients.)
    """
    implementation = _implementation("gather", state, backend)
    return implementation(state, steps, rows, check_moments, found_inf)


def read(state: AdamState, steps: StepTable, ids: Tensor, *, backend: str = "auto") -> Tensor:
    """Up-to-date copies of the rows `ids` (n,) int64, without changing any state: (n, d)."""
    return _implementation("read", state, backend)(state, steps, ids)


def update(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    gradients: Tensor,
    *,
    found_inf: Tensor | None = None,
    carried: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Step `steps.step` in place, for rows gathered at the step before it.

    gradients: (n, d), one an occurrence; those of equal ids are summed in a fixed order.
    found_inf: float32 of one: nothing is changed where it is not 0; "triton" reads it on the
    device.
    carried: what `carry` made of the gradients, if that was done before.
    """
    expected = (len(rows.ids), state.weight.shape[1])
    if gradients.shape != expected:
        raise ValueError(f"gradients: got shape {tuple(gradients.shape)}, expected {expected}")
    implementation = _implementation("update", state, backend)
    implementation(state, steps, rows, gradients, found_inf, carried)


def carry(
    state: AdamState, rows: GatheredRows, gradients: Tensor, *, backend: str = "auto"
) -> Tensor | None:
    """The part of an `update` that reads nothing but gradients (n, d), for "triton" (else None):
    it can be launched beside what the update has to wait for.
    """
    if _implementation("update", state, backend) is not _TRITON["update"]:
        return None
    from . import deferred_adam_launch as launches

    return launches.carry(state, rows.sorted, gradients)


def flush(state: AdamState, steps: StepTable, *, backend: str = "auto") -> None:
    """Bring every touched row up to `steps.step` in place."""
    _implementation("flush", state, backend)(state, steps)


def _is_set(flag: Tensor | None) -> bool:
    return flag is not None and bool(flag.item())


def _view(state: AdamState, steps: StepTable) -> "C.AdamView":
    """The C++ view of `state`, made anew when the step sizes move; it keeps past series."""
    if state.native is None or state.native[0] is not steps.step_size:
        tensors = (state.weight, state.exp_avg, state.exp_avg_sq, state.stamp)
        view = C.AdamView(
            *(tensor.numpy() for tensor in tensors),
            steps.beta1,
            steps.beta2,
            steps.eps,
            steps.step_size,
            steps.inv_sqrt_correction,
        )
        state.native = (steps.step_size, view)
    return state.native[1]


def _native_gather(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    check_moments: bool,
    found_inf: Tensor | None,
) -> Tensor:
    if _is_set(found_inf):
        return state.weight[rows.ids]
    out = torch.empty(len(rows.ids), state.weight.shape[1])
    first_bad = _view(state, steps).gather(steps.step, rows.plan, out.numpy(), check_moments)
    if first_bad >= 0:
        check_finite(state, torch.tensor([first_bad]), MOMENTS)
    return out


def _native_read(state: AdamState, steps: StepTable, ids: Tensor) -> Tensor:
    out = torch.empty(len(ids), state.weight.shape[1])
    _view(state, steps).read(steps.step, ids.numpy(), out.numpy())
    return out


def _native_update(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    gradients: Tensor,
    found_inf: Tensor | None,
    carried: Tensor | None,
) -> None:
    if _is_set(found_inf):
        return
    _view(state, steps).update(steps.step, rows.plan, gradients.contiguous().numpy())


def _native_flush(state: AdamState, steps: StepTable) -> None:
    _view(state, steps).flush(steps.step)


def _triton_gather(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    check_moments: bool,
    found_inf: Tensor | None,
) -> Tensor:
    from . import deferred_adam_launch as launches

    launches.catch_up(state, steps, rows.sorted, found_inf)
    return launches.read(state, steps, rows.ids, up_to_date=True)


def _triton_read(state: AdamState, steps: StepTable, ids: Tensor) -> Tensor:
    from . import deferred_adam_launch as launches

    return launches.read(state, steps, ids)


def _triton_update(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    gradients: Tensor,
    found_inf: Tensor | None,
    carried: Tensor | None,
) -> None:
    from . import deferred_adam_launch as launches

    launches.update(state, steps, rows.sorted, gradients, found_inf, carried)


def _triton_flush(state: AdamState, steps: StepTable) -> None:
    from . import deferred_adam_launch as launches

    launches.catch_up(state, steps, None)


def _reference_caught_up(state: AdamState, steps: StepTable, ids: Tensor) -> AdamState:
    copy = AdamState(
        *(t[ids] for t in (state.weight, state.exp_avg, state.exp_avg_sq, state.stamp))
    )
    reference.adam_catch_up(
        copy.weight,
        copy.exp_avg,
        copy.exp_avg_sq,
        copy.stamp,
        lrs=steps.lrs,
        beta1=steps.beta1,
        beta2=steps.beta2,
        eps=steps.eps,
    )
    return copy


def _store(state: AdamState, ids: Tensor, rows: AdamState) -> None:
    state.weight[ids], state.exp_avg[ids] = rows.weight, rows.exp_avg
    state.exp_avg_sq[ids], state.stamp[ids] = rows.exp_avg_sq, rows.stamp


def check_finite(
    state: AdamState, ids: Tensor, names: Sequence[str] = ("weight", *MOMENTS)
) -> None:
    """Raise FloatingPointError, naming row and tensor, where a row of `ids` is infinite or NaN."""
    for name in names:
        found = first_non_finite(getattr(state, name)[ids])
        if found is not None:
            (row, column), value = found
            raise FloatingPointError(
                f"{name} of row {int(ids[row])}: got {value} in column {column}, "
                "expected finite numbers"
            )


def _reference_gather(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    check_moments: bool,
    found_inf: Tensor | None,
) -> Tensor:
    if _is_set(found_inf):
        return state.weight[rows.ids]
    ids = rows.ids.unique()
    if check_moments:
        check_finite(state, ids, MOMENTS)
    _store(state, ids, _reference_caught_up(state, steps, ids))
    return state.weight[rows.ids]


def _reference_read(state: AdamState, steps: StepTable, ids: Tensor) -> Tensor:
    return _reference_caught_up(state, steps, ids).weight


def _reference_update(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    gradients: Tensor,
    found_inf: Tensor | None,
    carried: Tensor | None,
) -> None:
    if _is_set(found_inf):
        return
    ids, inverse = rows.ids.unique(return_inverse=True)
    summed = gradients.new_zeros(len(ids), gradients.shape[1]).index_add_(0, inverse, gradients)
    keep = ids != 0
    ids, summed = ids[keep], summed[keep]
    touched = AdamState(
        state.weight[ids], state.exp_avg[ids], state.exp_avg_sq[ids], state.stamp[ids]
    )
    reference.adam_step(
        touched.weight,
        touched.exp_avg,
        touched.exp_avg_sq,
        summed,
        step=steps.step,
        lr=steps.lrs[-1],
        beta1=steps.beta1,
        beta2=steps.beta2,
        eps=steps.eps,
    )
    touched.stamp.fill_(steps.step)
    _store(state, ids, touched)


def _reference_flush(state: AdamState, steps: StepTable) -> None:
    ids = torch.arange(len(state.weight), device=state.weight.device)
    _store(state, ids, _reference_caught_up(state, steps, ids))


_TRITON: dict[str, Callable[..., Tensor | None]] = {
    "gather": _triton_gather,
    "read": _triton_read,
    "update": _triton_update,
    "flush": _triton_flush,
}
_NATIVE: dict[str, Callable[..., Tensor | None]] = {
    "gather": _native_gather,
    "read": _native_read,
    "update": _native_update,
    "flush": _native_flush,
}
_REFERENCE: dict[str, Callable[..., Tensor | None]] = {
    "gather": _reference_gather,
    "read": _reference_read,
    "update": _reference_update,
    "flush": _reference_flush,
}


def _implementation(name: str, state: AdamState, backend: str) -> Callable[..., Tensor]:
    device, dtype = state.weight.device, state.weight.dtype
    available = {"triton": _TRITON[name], "reference": _REFERENCE[name]}
    if device.type == "cpu" and dtype == torch.float32:
        available = {"native": _NATIVE[name]} | available
    cannot = "" if dtype == torch.float32 else "it takes float32 only"
    operation = f"deferred_adam on {device.type} {dtype}"
    return choose(operation, backend, available, device, triton_cannot=cannot)
