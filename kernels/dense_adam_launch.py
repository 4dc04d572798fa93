"""Runs the Triton kernel of `dense_adam_triton.py`. Nothing here waits or depends on values."""

import triton
from torch import Tensor

from . import dense_adam_triton as kernels
from .deferred_adam_state import StepTable
from .dense_adam import DenseWeights
from .runtime import launch

_ELEMENTS = 1024  # of a program


def update(
    weights: DenseWeights, steps: StepTable, number: Tensor, found_inf: Tensor | None
) -> None:
    """See `dense_adam.update`."""
    device_steps = steps.on(number.device)
    sizes = tuple(weight.numel() for weight in weights.weight)
    programs = sum(max(1, triton.cdiv(size, _ELEMENTS)) for size in sizes)
    gradients = tuple(gradient.contiguous() for gradient in weights.gradient)
    launch(
        kernels.dense_adam_kernel,
        (programs,),
        tuple(weights.weight), gradients, tuple(weights.exp_avg), tuple(weights.exp_avg_sq),
        tuple(weights.step), sizes,
        number, device_steps.step_size, device_steps.inv_sqrt_correction, found_inf,
        REST1=1 - steps.beta1, BETA2=steps.beta2, REST2=1 - steps.beta2, EPS=steps.eps,
        TENSORS=len(sizes), BLOCK=_ELEMENTS,
    )  # fmt: skip
