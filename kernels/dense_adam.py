"""Adam on weights all of which move at every step, as a device makes it without the host.

One launch updates all of them. Reference: the formula (`kernels.reference.adam_step`), any dtype
and device. Triton: float32 on a GPU. `NativeAdam` is the C++ for a CPU, which the host counts the
steps of.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference
from .checks import check_tensor
from .deferred_adam_state import StepTable
from .dispatch import choose
from .native import C


class NativeAdam:
    """Adam in C++ on float32 weights on the CPU, as many of each kind, which are kept alive.

    Weights, moments and steps (one number each, which are read and counted on) are contiguous, and
    updated in place.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        exp_avgs: Sequence[Tensor],
        exp_avg_sqs: Sequence[Tensor],
        steps: Sequence[Tensor],
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """Raises TypeError or ValueError for tensors that do not fit."""
        arrays = map(_arrays, (weights, exp_avgs, exp_avg_sqs, steps))
        self.native = C.DenseAdam(*arrays, *betas, eps)

    @staticmethod
    def can_take(tensors: Sequence[Tensor]) -> bool:
        """Whether the C++ code takes these."""
        return all(x.is_cpu and x.dtype == torch.float32 and x.is_contiguous() for x in tensors)

    def step_if_finite(self, lr: float, gradients: Sequence[Tensor]) -> bool:
        """One step, if weights, gradients and moments are finite.

        Returns False, and has changed nothing, where one is infinite or NaN.
        """
        return bool(self.native.step(lr, _arrays(gradients)))


def _arrays(tensors: Sequence[Tensor]) -> list[Any]:
    return [x.detach().numpy() for x in tensors]


class DenseWeights(NamedTuple):
    """Weights with what Adam has of each: as many of each kind, of the same shapes and dtype.

    step: float32 (), the steps that were made, as torch keeps them; they are written, not read.
    All but the gradients are contiguous, and updated in place. Fewer than 2^31 elements each.
    """

    weight: Sequence[Tensor]
    gradient: Sequence[Tensor]
    exp_avg: Sequence[Tensor]
    exp_avg_sq: Sequence[Tensor]
    step: Sequence[Tensor]


def update(
    weights: DenseWeights,
    steps: StepTable,
    number: Tensor,
    *,
    found_inf: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Step `number`, counted from 0, with the step sizes of `steps`, in place.

    number: int64 (1,) on the device of the weights. Who launches this beside what counts on from
    it has to keep a copy.
    found_inf: float32 of one: nothing is changed where it is not 0. "triton" waits for nothing.

    Raises TypeError or ValueError for tensors that do not fit each other.
    """
    _check(weights, number)
    if not weights.weight:
        return
    first = weights.weight[0]
    backends: dict[str, Callable[..., None]] = {"triton": _triton, "reference": _reference}
    cannot = "" if first.dtype == torch.float32 else "it takes float32 only"
    implementation = choose("dense_adam", backend, backends, first.device, triton_cannot=cannot)
    implementation(weights, steps, number, found_inf)


def _check(weights: DenseWeights, number: Tensor) -> None:
    check_tensor("number", number)
    if number.dtype != torch.int64 or number.numel() != 1:
        raise TypeError(
            f"number: got {number.dtype} of shape {tuple(number.shape)}, expected one int64"
        )
    for name, tensors in weights._asdict().items():
        if len(tensors) != len(weights.weight):
            raise ValueError(
                f"{name}: got {len(tensors)} tensors, expected one of each of "
                f"{len(weights.weight)} weights"
            )
        for i, (tensor, weight) in enumerate(zip(tensors, weights.weight, strict=True)):
            check_tensor(f"{name} {i}", tensor)
            shape, dtype = (
                (torch.Size(), torch.float32) if name == "step" else (weight.shape, weight.dtype)
            )
            got = tuple(tensor.shape), tensor.dtype, tensor.device
            expected = tuple(shape), dtype, number.device
            if got != expected:
                raise ValueError(f"{name} {i}: got {got}, expected {expected}")
            if name != "gradient" and not tensor.is_contiguous():
                raise ValueError(
                    f"{name} {i}: got strides {tensor.stride()}, expected a contiguous tensor: "
                    "it is updated in place"
                )


def _triton(
    weights: DenseWeights, steps: StepTable, number: Tensor, found_inf: Tensor | None
) -> None:
    from . import dense_adam_launch  # triton is not imported where it is not used

    dense_adam_launch.update(weights, steps, number, found_inf)


def _reference(
    weights: DenseWeights, steps: StepTable, number: Tensor, found_inf: Tensor | None
) -> None:
    if found_inf is not None and bool(found_inf.item()):
        return
    step = int(number.item()) + 1
    for weight, gradient, exp_avg, exp_avg_sq, count in zip(*weights, strict=True):
        reference.adam_step(
            weight,
            exp_avg,
            exp_avg_sq,
            gradient,
            step=step,
            lr=steps.lrs[step - 1],
            beta1=steps.beta1,
            beta2=steps.beta2,
            eps=steps.eps,
        )
        count.fill_(step)
