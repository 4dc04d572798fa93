"""Dynamic routing of the capsule models: arguments checked, backend chosen.

The formula is `reference.capsule_routing`; `csrc/capsule_routing.cpp` and
`capsule_routing_triton.py` have all iterations in one loop over the users.
"""

from typing import Any

import torch
from torch import Tensor

from . import reference
from .checks import check_history, check_shapes, check_tensor
from .dispatch import choose, first_derivative_only, full_precision, too_wide
from .native import C


def capsule_routing(
    history: Tensor,
    length: Tensor,
    weight: Tensor,
    logits: Tensor,
    *,
    through_routing: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """See `kernels.reference.capsule_routing` for shapes and formula; three iterations.

    history, weight and logits have one floating dtype, the results' (half precision is summed in
    float32 by "triton", for d up to 256). "native" is in C++ for float32 on the CPU, else in
    PyTorch. Raises ValueError for shapes, dtypes or devices that do not fit.
    """
    _check(history, length, weight, logits)
    implementation = choose(
        "capsule_routing",
        backend,
        {"triton": _triton, "native": _native, "reference": reference.capsule_routing},
        history.device,
        triton_cannot=too_wide(history.shape[2]),
    )
    return implementation(history, length, weight, logits, through_routing=through_routing)


def _check(history: Tensor, length: Tensor, weight: Tensor, logits: Tensor) -> None:
    check_history(history, length)
    for name, tensor in (("weight", weight), ("logits", logits)):
        check_tensor(name, tensor)
    if logits.ndim != 3 or logits.shape[1] == 0:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected (B or 1, K, L), K > 0")
    batch, positions, dim = history.shape
    num_interests = logits.shape[1]
    own = (positions, num_interests * dim, dim)
    shapes = {
        "weight": (weight, own if weight.ndim == 3 else (dim, dim)),
        "logits": (logits, (1 if len(logits) == 1 else batch, num_interests, positions)),
    }
    check_shapes("history", history, shapes, same_dtype=True)


def _native(
    history: Tensor, length: Tensor, weight: Tensor, logits: Tensor, *, through_routing: bool
) -> tuple[Tensor, Tensor]:
    padding = _padding(history, length)
    votes = reference.capsule_votes(history.masked_fill(padding[:, :, None], 0.0), weight)
    if votes.device.type == "cpu" and votes.dtype == logits.dtype == torch.float32:
        interests, routing = _Native.apply(votes, length.long(), logits.detach(), through_routing)
        return interests, routing
    return _eager(votes, padding, logits, through_routing)


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, votes: Tensor, length: Tensor, logits: Tensor, through_routing: bool
    ) -> tuple[Tensor, Tensor]:
        batch, _, positions, dim = votes.shape
        interests = votes.new_empty((batch, logits.shape[1], dim))
        routing = votes.new_empty((batch, logits.shape[1], positions))
        length, logits = length.contiguous(), logits.contiguous()
        C.capsule_routing(*_arrays(votes, length, logits, interests, routing))
        ctx.through_routing = through_routing
        ctx.save_for_backward(votes, length, logits, routing)
        if not through_routing:
            ctx.mark_non_differentiable(routing)
        return interests, routing

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_interests: Tensor, grad_routing: Tensor
    ) -> tuple[Tensor | None, ...]:
        votes, length, logits, routing = ctx.saved_tensors
        grad_votes = torch.empty_like(votes)
        slope = grad_routing.contiguous() if ctx.through_routing else None
        C.capsule_routing_backward(
            *_arrays(votes, length, logits, routing, grad_interests.contiguous(), slope, grad_votes)
        )
        return grad_votes, None, None, None


def _arrays(*tensors: Tensor | None) -> list[Any]:
    """What the C++ code takes."""
    return [None if x is None else x.detach().numpy() for x in tensors]


def _eager(
    votes: Tensor, padding: Tensor, logits: Tensor, through_routing: bool
) -> tuple[Tensor, Tensor]:
    """Matrix products in the place of sums; shared votes are not repeated for each interest."""
    with torch.no_grad():
        logits = _agree(votes, logits, padding)
        if not through_routing:
            logits = _agree(votes, logits, padding)
    if through_routing:
        logits = _agree(votes, logits, padding)
    routing = _routing(logits, padding)
    return reference.squash(_mix(routing, votes)), routing


def _padding(history: Tensor, length: Tensor) -> Tensor:
    """(B, L): which positions are."""
    return torch.arange(history.shape[1], device=history.device) >= length[:, None]


def _agree(votes: Tensor, logits: Tensor, padding: Tensor) -> Tensor:
    """The logits after one iteration."""
    interests = reference.squash(_mix(_routing(logits, padding), votes))
    if votes.shape[1] == 1:
        return logits + interests @ votes[:, 0].transpose(1, 2)
    return logits + (votes @ interests[..., None])[..., 0]


def _routing(logits: Tensor, padding: Tensor) -> Tensor:
    return torch.softmax(logits, dim=2).masked_fill(padding[:, None, :], 0.0)


def _mix(routing: Tensor, votes: Tensor) -> Tensor:
    """sum_l c_kl votes_kl: (B, K, d)."""
    if votes.shape[1] == 1:
        return routing @ votes[:, 0]
    return (routing[:, :, None] @ votes)[:, :, 0]


def _triton(
    history: Tensor, length: Tensor, weight: Tensor, logits: Tensor, *, through_routing: bool
) -> tuple[Tensor, Tensor]:
    if weight.ndim == 3:  # by torch's matrix product, which would multiply NaN in padding by 0
        history = history.masked_fill(_padding(history, length)[:, :, None], 0.0)
    if history.stride(2) != 1:
        history = history.contiguous()
    weight = weight.to(history.dtype)  # under autocast they may differ
    length, weight = length.contiguous(), weight.contiguous()
    interests, routing = _Triton.apply(history, length, weight, logits, through_routing)
    return interests, routing


class _Triton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        history: Tensor,
        length: Tensor,
        weight: Tensor,
        logits: Tensor,
        through_routing: bool,
    ) -> tuple[Tensor, Tensor]:
        from . import capsule_routing_launch  # triton is not imported where it is not used

        with full_precision(history.device):
            interests, routing = capsule_routing_launch.forward(history, length, weight, logits)
        ctx.through_routing = through_routing
        ctx.save_for_backward(history, length, weight, logits, routing)
        if not through_routing:
            ctx.mark_non_differentiable(routing)
        return interests, routing

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_interests: Tensor, grad_routing: Tensor
    ) -> tuple[Tensor | None, ...]:
        from . import capsule_routing_launch

        history, length, weight, logits, routing = ctx.saved_tensors
        slope = grad_routing.contiguous() if ctx.through_routing else None
        with full_precision(history.device):
            gradients = capsule_routing_launch.backward(
                history, length, weight, logits, routing, grad_interests.contiguous(), slope
            )
        return gradients[0], None, gradients[1], None, None
