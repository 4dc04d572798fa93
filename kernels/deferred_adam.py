"""Dense Adam on an item table at the cost of the rows that are touched.

A row is brought up to date just before it is read: the steps it missed (their gradient was 0) are
replayed, or summed in closed form, and only then is it used. Reference: the replay
(`kernels.reference.adam_catch_up`), any dtype and device. Native: C++, float32 on the CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import reference
from .dispatch import choose
from .native import C

MAX_STEPS = 2**31 - 2  # stamps are int32


@dataclass
class AdamState:
    """An item table, its two moments and the step each row is at (0: never touched).

    weight, exp_avg, exp_avg_sq: (I, d) float32 (the reference takes any floating dtype),
    contiguous; stamp: (I,) int32. Row 0 is padding: it is read as it is and never updated.
    """

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    stamp: Tensor


class StepTable:
    """The step sizes of all steps so far, which late rows need: 24 bytes a step.

    `lrs[j - 1]` is the learning rate of step j. A constant learning rate, and any schedule, are
    kept as runs (first step, learning rate), which is also how they are stored.
    """

    def __init__(self, beta1: float, beta2: float, eps: float) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.step = 0
        self.runs: list[tuple[int, float]] = []
        self._lr = np.zeros(1)
        self.step_size = np.zeros(1)  # lr_j / (1 - beta1^j), by j
        self.inv_sqrt_correction = np.zeros(1)  # 1 / sqrt(1 - beta2^j), by j

    @property
    def lrs(self) -> list[float]:
        """Learning rates of steps 1..step."""
        return [float(x) for x in self._lr[1 : self.step + 1]]

    def advance(self, lr: float) -> int:
        """Record one more step with learning rate `lr`; return its number, from 1."""
        if self.step >= MAX_STEPS:
            raise OverflowError(f"step {self.step + 1}: expected at most {MAX_STEPS} Adam steps")
        self.step += 1
        if self.step >= len(self._lr):
            self._grow(max(1024, 2 * self.step))
        j = self.step
        self._lr[j] = lr
        self.step_size[j] = lr / -math.expm1(j * math.log(self.beta1)) if self.beta1 > 0 else lr
        self.inv_sqrt_correction[j] = 1 / math.sqrt(-math.expm1(j * math.log(self.beta2)))
        if not self.runs or self.runs[-1][1] != lr:
            self.runs.append((j, lr))
        return j

    def _grow(self, size: int) -> None:
        for name in ("_lr", "step_size", "inv_sqrt_correction"):
            old = getattr(self, name)
            new = np.zeros(size)
            new[: len(old)] = old
            setattr(self, name, new)

    def restore(self, step: int, runs: list[tuple[int, float]]) -> None:
        """Become the table of `step` steps with the learning rates of `runs`."""
        self.step, self.runs = 0, []
        ends = [first for first, _ in runs[1:]] + [step + 1]
        for (first, lr), end in zip(runs, ends, strict=True):
            for _ in range(first, end):
                self.advance(lr)


class GatheredRows:
    """The ids of one gather, grouped by row, so that its gradients can be summed in fixed order."""

    def __init__(self, ids: Tensor, num_rows: int) -> None:
        """ids: any shape, integers in [0, num_rows); raises IndexError naming the first outside."""
        if ids.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"ids: got {ids.dtype}, expected int32 or int64")
        self.ids = ids.detach().reshape(-1).to(torch.int64).contiguous()
        self.num_rows = num_rows
        self._plan = None
        if self.ids.device.type == "cpu":
            self._plan = C.GatherPlan(self.ids.numpy(), num_rows)

    @property
    def plan(self) -> object:
        """The C++ grouping of the ids (CPU only)."""
        return self._plan


def gather(
    state: AdamState, steps: StepTable, rows: GatheredRows, *, backend: str = "auto"
) -> Tensor:
    """Bring the rows up to date in place and return copies, one an occurrence: (n, d)."""
    return _implementation("gather", state, backend)(state, steps, rows)


def read(state: AdamState, steps: StepTable, ids: Tensor, *, backend: str = "auto") -> Tensor:
    """Up-to-date copies of the rows `ids` (n,) int64, without changing any state: (n, d)."""
    return _implementation("read", state, backend)(state, steps, ids)


def update(
    state: AdamState,
    steps: StepTable,
    rows: GatheredRows,
    gradients: Tensor,
    *,
    backend: str = "auto",
) -> None:
    """Step `steps.step` in place, for rows gathered at the step before it.

    gradients: (n, d), one an occurrence; those of equal ids are summed in the order they come in.
    """
    _implementation("update", state, backend)(state, steps, rows, gradients)


def flush(state: AdamState, steps: StepTable, *, backend: str = "auto") -> None:
    """Bring every touched row up to `steps.step` in place."""
    _implementation("flush", state, backend)(state, steps)


def _view(state: AdamState, steps: StepTable) -> "C.AdamView":
    return C.AdamView(
        state.weight.numpy(),
        state.exp_avg.numpy(),
        state.exp_avg_sq.numpy(),
        state.stamp.numpy(),
        steps.beta1,
        steps.beta2,
        steps.eps,
        steps.step_size,
        steps.inv_sqrt_correction,
    )


def _native_gather(state: AdamState, steps: StepTable, rows: GatheredRows) -> Tensor:
    out = torch.empty(len(rows.ids), state.weight.shape[1])
    _view(state, steps).gather(steps.step, rows.plan, out.numpy())
    return out


def _native_read(state: AdamState, steps: StepTable, ids: Tensor) -> Tensor:
    out = torch.empty(len(ids), state.weight.shape[1])
    _view(state, steps).read(steps.step, ids.numpy(), out.numpy())
    return out


def _native_update(
    state: AdamState, steps: StepTable, rows: GatheredRows, gradients: Tensor
) -> None:
    _view(state, steps).update(steps.step, rows.plan, gradients.contiguous().numpy())


def _native_flush(state: AdamState, steps: StepTable) -> None:
    _view(state, steps).flush(steps.step)


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


def _reference_gather(state: AdamState, steps: StepTable, rows: GatheredRows) -> Tensor:
    ids = rows.ids.unique()
    _store(state, ids, _reference_caught_up(state, steps, ids))
    return state.weight[rows.ids]


def _reference_read(state: AdamState, steps: StepTable, ids: Tensor) -> Tensor:
    return _reference_caught_up(state, steps, ids).weight


def _reference_update(
    state: AdamState, steps: StepTable, rows: GatheredRows, gradients: Tensor
) -> None:
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
    available = {"reference": _REFERENCE[name]}
    if state.weight.device.type == "cpu" and state.weight.dtype == torch.float32:
        available = {"native": _NATIVE[name]} | available
    device = state.weight.device
    return choose(
        f"deferred_adam on {device.type} {state.weight.dtype}", backend, available, device
    )
