"""What DeferredAdam keeps: the table with its moments and stamps, and the step sizes."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # the kernels for a GPU do not need it
    from .native import C

MAX_STEPS = 2**31 - 2  # stamps are int32
_NEGLIGIBLE = 6e-8  # what adds nothing to a float
_GONE = 1e-38  # what a float cannot hold
_VARIATION = 0.17  # of beta2^k over a segment: all 159 steps at (0.9, 0.999)
_ONE = 40  # 1 - exp(-40) is 1 in float64
_MOST_RUNS = 100  # of equal learning rates, kept as such


@dataclass
class AdamState:
    """An item table, its two moments and the step each row is at (0: never touched).

    weight, exp_avg, exp_avg_sq: (I, d) float32 (the reference takes any floating dtype), their
    rows contiguous and equally far apart in all three; stamp: (I,) int32. Row 0 is padding: it is
    read as it is and never updated.
    native: the step sizes and the C++ view of these tensors that was made with them.

    Raises ValueError if the shapes or the distances of the rows do not fit together.
    """

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    stamp: Tensor
    native: "tuple[np.ndarray, C.AdamView] | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        shape, strides = tuple(self.weight.shape), self.weight.stride()
        for name in ("weight", "exp_avg", "exp_avg_sq"):
            tensor: Tensor = getattr(self, name)
            got = tuple(tensor.shape)
            if tensor.dim() != 2 or got != shape:
                raise ValueError(f"{name}: got shape {got}, expected (I, d), the weight's: {shape}")
            if tensor.stride() != strides or strides[1] != 1 or strides[0] < shape[1]:
                raise ValueError(
                    f"{name}: got strides {tensor.stride()}, expected rows that are contiguous, "
                    f"one after the other, and as far apart as the weight's: {strides}"
                )
        if tuple(self.stamp.shape) != shape[:1]:
            raise ValueError(f"stamp: got shape {tuple(self.stamp.shape)}, expected {shape[:1]}")


class StepTable:
    """The step sizes of all steps so far, which late rows need: 24 bytes a step.

    `lrs[j - 1]` is the learning rate of step j.
    """

    def __init__(self, beta1: float, beta2: float, eps: float) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.step = 0
        self._lr = np.zeros(1)
        self.step_size = np.zeros(1)  # lr_j / (1 - beta1^j), by j
        self.inv_sqrt_correction = np.zeros(1)  # 1 / sqrt(1 - beta2^j), by j
        self._on_devices: dict[torch.device, DeviceSteps] = {}

    @property
    def lrs(self) -> list[float]:
        """Learning rates of steps 1..step."""
        return [float(x) for x in self._lr[1 : self.step + 1]]

    @property
    def rates(self) -> list[tuple[int, float]] | Tensor:
        """The learning rates as they are stored: runs (first step, rate) of equal ones, or where
        these are many, float64 (step,), one a step."""
        rates = self._lr[1 : self.step + 1]
        starts = np.flatnonzero(np.diff(rates, prepend=np.nan))
        if len(starts) > _MOST_RUNS:
            return torch.from_numpy(rates)
        return [(int(i) + 1, float(rates[i])) for i in starts]

    @property
    def horizon(self) -> int:
        """Missed steps after which a row hardly moves any more: step k moves it by a multiple of
        (beta1 / sqrt(beta2))^k, or where eps is most of the denominator, of beta1^k."""
        if self.beta1 == 0:
            return 1
        log_beta1 = math.log(self.beta1)
        shrinks = log_beta1 - math.log(self.beta2) / 2
        gone = math.ceil(math.log(_GONE) / log_beta1)
        return min(gone, math.ceil(math.log(_NEGLIGIBLE) / shrinks)) if shrinks < 0 else gone

    @property
    def longest_segment(self) -> int:
        """Missed steps over which beta2^(k/2) is nearly constant, for the series of five terms."""
        return max(1, int(_VARIATION / -math.log(self.beta2)))

    @property
    def settled(self) -> int:
        """The step from which on the bias corrections change slowly."""
        return math.ceil(30 / (1 - self.beta1))

    def advance(self, lr: float) -> None:
        """Record one more step with learning rate `lr`."""
        if self.step >= MAX_STEPS:
            raise OverflowError(f"step {self.step + 1}: expected at most {MAX_STEPS} Adam steps")
        self.step += 1
        if self.step >= len(self._lr):
            self.reserve(max(1023, 2 * self.step - 1))
        j = self.step
        self._lr[j] = lr
        self.step_size[j] = lr / -math.expm1(j * math.log(self.beta1)) if self.beta1 > 0 else lr
        self.inv_sqrt_correction[j] = 1 / math.sqrt(-math.expm1(j * math.log(self.beta2)))

    def reserve(self, steps: int) -> None:
        """Make room for this many steps in all, so that the table need not grow before."""
        if steps < len(self._lr):
            return
        for name in ("_lr", "step_size", "inv_sqrt_correction"):
            old = getattr(self, name)
            new = np.full(steps + 1, np.nan)  # written, so that the memory is there from now on
            new[: len(old)] = old
            setattr(self, name, new)

    def rewind(self, step: int) -> None:
        """Take back the steps after `step`; every device that has more of them is there already."""
        self.step = step
        for device_steps in self._on_devices.values():
            device_steps.rewind(step)

    def restore(self, step: int, rates: list[tuple[int, float]] | Tensor) -> None:
        """Become the table of `step` steps with these learning rates, as `rates` has them."""
        if isinstance(rates, Tensor):
            lrs = rates.cpu().numpy()
        else:
            lengths = np.diff([first for first, _ in rates] + [step + 1])
            lrs = np.repeat(np.array([lr for _, lr in rates], dtype=np.float64), lengths)
        self.step = 0
        for name in ("_lr", "step_size", "inv_sqrt_correction"):  # new ones: old views are of these
            setattr(self, name, np.zeros(max(step + 1, len(getattr(self, name)))))
        corrected = min(step, math.ceil(_ONE / -math.log(max(self.beta1, self.beta2))))
        for lr in lrs[:corrected].tolist():
            self.advance(lr)
        self._lr[corrected + 1 : step + 1] = lrs[corrected:]
        self.step_size[corrected + 1 : step + 1] = lrs[corrected:]
        self.inv_sqrt_correction[corrected + 1 : step + 1] = 1.0
        self.step = step
        for device_steps in self._on_devices.values():
            device_steps.forget()

    def on(self, device: torch.device) -> "DeviceSteps":
        """This table in the memory of `device`, up to date."""
        if device not in self._on_devices:
            self._on_devices[device] = DeviceSteps(self, device)
        self._on_devices[device].follow()
        return self._on_devices[device]


class DeviceSteps:
    """A StepTable as kernels read it, in the memory of a device, in float32: 8 bytes a step.

    Nothing here waits for the device. Steps that are launched one by one need `StepTable.on` only.
    A CUDA graph of several steps has a `bump` before each in the place of `StepTable.advance`;
    before a replay the host calls `advance` once for each of its steps, and then `write`.
    """

    def __init__(self, table: StepTable, device: torch.device) -> None:
        self._table = table
        self._written = -1  # the last step whose sizes the device has
        self._captured = False
        self.step = torch.zeros(1, dtype=torch.int64, device=device)  # the current one
        self.step_size = torch.zeros(1, device=device)
        self.inv_sqrt_correction = torch.zeros(1, device=device)
        k = np.arange(1, table.horizon + 1)
        decay = np.stack([table.beta1**k, table.beta2 ** (k / 2)]).astype(np.float32)
        self.decay = torch.from_numpy(decay).to(device)  # (2, horizon): beta1^k, beta2^(k/2)

    def follow(self) -> None:
        """Be at the step that the host's table is at."""
        if self._written != self._table.step:
            self.write()
            self.step.fill_(self._table.step)

    def write(self) -> None:
        """Learn the sizes of all steps that the host's table has, and stay at the step as it is."""
        first, end = self._written + 1, self._table.step + 1
        for name in ("step_size", "inv_sqrt_correction"):
            source = getattr(self._table, name)
            if len(source) > len(getattr(self, name)):
                self._grow(name, len(source))
            mine: Tensor = getattr(self, name)
            if end - first == 1:  # a number is an argument of the launch, not a copy
                mine[first].fill_(float(source[first]))
            else:
                rounded = torch.from_numpy(source[first:end].astype(np.float32))
                mine[first:end].copy_(_pinned(rounded, mine.device), non_blocking=True)
        self._written = self._table.step

    def bump(self, by: Tensor | int = 1) -> None:
        """Go on to the next step, on the device; what a CUDA graph captures.

        by: int64 (1,), 1 or, where the step is not to count, 0.
        """
        self._captured = True
        self.step.add_(by)

    def rewind(self, step: int) -> None:
        """Let the sizes after `step` be written anew; the current step stays as it is."""
        self._written = min(self._written, step)

    def forget(self) -> None:
        """Let the next `follow` write everything anew."""
        self._written = -1

    def _grow(self, name: str, size: int) -> None:
        if self._captured:
            raise RuntimeError(
                f"step {self._table.step}: a captured graph reads the table of step sizes, which "
                f"has room for {len(self.step_size) - 1}; call StepTable.reserve before capturing"
            )
        old: Tensor = getattr(self, name)
        new = old.new_zeros(size)
        new[: len(old)].copy_(old)
        setattr(self, name, new)


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    """`values` where a copy to `device` need not be waited for."""
    return values.pin_memory() if device.type == "cuda" else values
