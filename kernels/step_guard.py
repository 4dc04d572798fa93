"""The guard of training steps that nobody watches: it looks at each on the device.

From the first step on in which something is infinite or NaN, no step changes anything: the update
kernels are told, and the step is not counted. So the step's number, its batch and all that it made
are still there when the host looks, however many steps it launched meanwhile.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .deferred_adam_state import AdamState
from .dispatch import choose


class StepMade(NamedTuple):
    """What a step made before its update: all float32, contiguous, on one device.

    ranking (B,), rr (B,) or None; ids (n,) int64 and gradients (n, d) of the rows that were
    gathered, one an occurrence; dense: all else that has to be finite.
    """

    ranking: Tensor
    rr: Tensor | None
    ids: Tensor
    gradients: Tensor
    dense: Sequence[Tensor]


class StepGuard:
    """Flag and losses of the steps since the host last looked.

    found_inf: float32 (), 1 where nothing may change any more: as torch's fused Adam takes it.
    increment: int64 (1,), what a step adds to its number: 1, or 0.
    losses: float32 (capacity, 3): total, mean ranking loss and mean rr, of step t at t % capacity.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.found_inf = torch.zeros((), device=device)
        self.increment = torch.ones(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(capacity, 3, device=device)

    def hold(self, held: bool) -> None:
        """Let steps change nothing, or let them go on."""
        self.found_inf.fill_(float(held))
        self.increment.fill_(0 if held else 1)

    def read(self, first: int, count: int) -> tuple[bool, list[list[float]]]:
        """Whether something was not finite, and the losses of `count` <= capacity steps from
        `first` on. The device is waited for."""
        losses = self.losses.tolist()
        found = bool(self.found_inf.item())
        return found, [losses[step % self.capacity] for step in range(first, first + count)]


def look(
    guard: StepGuard,
    step: Tensor,
    made: StepMade,
    state: AdamState,
    *,
    rr_weight: float,
    backend: str = "auto",
) -> None:
    """Note the losses of a step, and hold the guard if something is infinite or NaN.

    Looked at: the losses, total = mean(ranking) + rr_weight mean(rr); the gradients and both
    moments of the rows, but for padding and ids outside the table; all of `made.dense`.
    step: int64 (1,) on the device. Nothing is waited for.
    """
    count, dim = made.gradients.shape
    if len(made.ids) != count or dim != state.weight.shape[1]:
        raise ValueError(
            f"gradients: got shape {tuple(made.gradients.shape)}, "
            f"expected {(len(made.ids), state.weight.shape[1])}"
        )
    backends: dict[str, Callable[..., None]] = {"triton": _triton, "reference": _reference}
    implementation = choose("step_guard", backend, backends, state.weight.device)
    implementation(guard, step, made, state, rr_weight)


def _triton(
    guard: StepGuard, step: Tensor, made: StepMade, state: AdamState, rr_weight: float
) -> None:
    from . import step_guard_launch  # triton is not imported where it is not used

    step_guard_launch.look(guard, step, made, state, rr_weight)


def _reference(
    guard: StepGuard, step: Tensor, made: StepMade, state: AdamState, rr_weight: float
) -> None:
    ranking = made.ranking.mean()
    rr = torch.zeros_like(ranking) if made.rr is None else made.rr.mean()
    total = ranking + rr_weight * rr if rr_weight else ranking
    losses = torch.stack([total, ranking, rr])
    guard.losses[step % guard.capacity] = losses
    real = (made.ids > 0) & (made.ids < len(state.weight))
    ids = made.ids[real]
    looked_at = [losses[0], made.gradients[real], state.exp_avg[ids], state.exp_avg_sq[ids]]
    finite = [torch.isfinite(x).all() for x in (*looked_at, *made.dense)]
    bad = torch.stack(finite).logical_not().any()
    guard.found_inf.logical_or_(bad)
    guard.increment.logical_and_(~bad)
