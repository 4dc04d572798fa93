"""Which implementation of an operation runs: `backend` is a name, never a silent fallback."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

MAX_TRITON_DIM = 256


def choose(
    operation: str,
    backend: str,
    implementations: Mapping[str, Callable[..., Any]],
    device: torch.device,
    *,
    triton_cannot: str = "",
) -> Callable[..., Any]:
    """The implementation called `backend`, for tensors of `device`.

    `triton_cannot` says why Triton cannot take the arguments. "auto" is "triton" on a GPU if it
    can, else the first other one. Raises ValueError for a name that the operation does not have,
    or that cannot run.
    """
    if backend == "auto":
        if "triton" in implementations and device.type == "cuda" and not triton_cannot:
            return implementations["triton"]
        return next(f for name, f in implementations.items() if name != "triton")
    if backend not in implementations:
        raise ValueError(
            f"{operation}: got backend {backend!r}, expected one of: "
            f"auto, {', '.join(implementations)}"
        )
    if backend == "triton":
        from .runtime import can_run

        if not can_run(device):
            raise ValueError(
                f"{operation}: backend 'triton' needs tensors on a GPU, got device {device}"
            )
        if triton_cannot:
            raise ValueError(f"{operation}: backend 'triton' cannot: {triton_cannot}")
    return implementations[backend]


def too_wide(dim: int) -> str:
    """Why Triton's kernels cannot take this dimension; empty if they can."""
    return "" if dim <= MAX_TRITON_DIM else f"got dimension {dim}, at most {MAX_TRITON_DIM}"


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A region where autocast leaves dtypes alone."""
    return torch.autocast(device.type, enabled=False)


def widened(x: Tensor) -> Tensor:
    """Half precision as float32: sums and losses are never kept in less."""
    return x.float() if x.itemsize < 4 else x


def first_derivative_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates the backward of an autograd.Function: a second derivative is an error, not 0."""

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # only under create_graph=True
            raise RuntimeError(
                "remi-fast's closed-form gradients have no second derivative "
                "(got create_graph=True); backend='reference' has"
            )
        return backward(ctx, *gradients)

    return checked
