"""The error budget every fast operation is held to."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Operation = Callable[..., Sequence[Tensor]]


def within_budget(
    ours: Sequence[Tensor], eager: Sequence[Tensor], truth: Sequence[Tensor], factor: float = 2.0
) -> None:
    """Assert max|ours - truth| <= factor * max|eager - truth| + eps * max|truth|, per output.

    `truth` is the reference in float64, `eager` the reference in the dtype of `ours`.
    """
    for i, (mine, theirs, exact) in enumerate(zip(ours, eager, truth, strict=True)):
        assert torch.isfinite(mine).all(), f"output {i} is not finite"
        if exact.numel() == 0:
            continue
        error = (mine.double() - exact).abs().max()
        budget = factor * (theirs.double() - exact).abs().max()
        budget += torch.finfo(mine.dtype).eps * exact.abs().max()
        assert error <= budget, f"output {i}: error {error:.3e}, budget {budget:.3e}"


def with_gradients(
    operation: Operation, inputs: Sequence[Tensor], seed: int = 0
) -> tuple[Tensor, ...]:
    """Outputs of the operation and the gradients of a random weighting of them."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = operation(*leaves)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
    for output in outputs:
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        total = total + (output * weights.to(output)).sum()
    gradients = torch.autograd.grad(total, leaves)
    return (*(output.detach() for output in outputs), *gradients)
