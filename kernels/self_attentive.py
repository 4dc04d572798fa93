"""ComiRec-SA's interest extraction: arguments checked, backend chosen.

The formula is `reference.self_attentive_extractor`. On the CPU only the real positions go through
the layers; `self_attentive_triton.py` keeps nothing of the hidden layer.
"""

import math
from typing import Any

import torch
from torch import Tensor

from . import reference
from .checks import check_history, check_shapes, check_tensor
from .dispatch import choose, first_derivative_only, full_precision, too_wide
from .native import C

MAX_TRITON_POSITIONS = 256
MAX_TRITON_INTERESTS = 16


def self_attentive_extractor(
    history: Tensor,
    length: Tensor,
    positions: Tensor,
    w1: Tensor,
    w2: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """See `kernels.reference.self_attentive_extractor` for shapes and formula.

    All but length have one floating dtype, the results'; "triton" sums half precision in float32,
    multiplies under autocast in its dtype, and takes L and d up to 256 and K up to 16. Raises
    ValueError for shapes, dtypes or devices that do not fit.
    """
    check_layers(history, length, positions, w1, w2)
    implementation = choose(
        "self_attentive_extractor",
        backend,
        {"triton": _triton, "native": native, "reference": reference.self_attentive_extractor},
        history.device,
        triton_cannot=too_large(history, w2),
    )
    return implementation(history, length, positions, w1, w2)


def check_layers(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor
) -> None:
    """Raise TypeError or ValueError for what cannot be histories and layers of the extractor."""
    check_history(history, length)
    for name, tensor in (("positions", positions), ("w1", w1), ("w2", w2)):
        check_tensor(name, tensor)
    if w2.ndim != 2 or w2.shape[1] == 0:
        raise ValueError(f"w2: got shape {tuple(w2.shape)}, expected (h, K), K > 0")
    _, max_length, dim = history.shape
    shapes = {"positions": (positions, (max_length, dim)), "w1": (w1, (dim, len(w2)))}
    check_shapes("history", history, shapes | {"w2": (w2, tuple(w2.shape))}, same_dtype=True)


def too_large(history: Tensor, w2: Tensor) -> str:
    """Why Triton's kernels cannot take these sizes; empty if they can."""
    if history.shape[1] > MAX_TRITON_POSITIONS:
        return f"got {history.shape[1]} positions, at most {MAX_TRITON_POSITIONS}"
    if w2.shape[1] > MAX_TRITON_INTERESTS:
        return f"got {w2.shape[1]} interests, at most {MAX_TRITON_INTERESTS}"
    return too_wide(history.shape[2])


def native(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor]:
    """The backend of that name; nothing is checked."""
    interests, routing = _SelfAttentive.apply(history, length, positions, w1, w2)
    return interests, routing


class _SelfAttentive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, max_length, dim = history.shape
        steps = torch.arange(max_length, device=history.device)
        real = (steps[None, :] < length[:, None]).flatten().nonzero().squeeze(1)
        inputs = history.reshape(-1, dim).index_select(0, real)
        inputs += positions.index_select(0, real % max_length)
        hidden, real_logits = _tanh_project(inputs @ w1, w2)
        logits = history.new_full((batch * max_length, w2.shape[1]), -math.inf)
        logits.index_copy_(0, real, real_logits)
        logits = logits.view(batch, max_length, w2.shape[1]).transpose(1, 2).contiguous()
        empty = (length == 0)[:, None, None]
        routing = torch.softmax(logits.masked_fill_(empty, 0.0), dim=2).masked_fill_(empty, 0.0)
        ctx.save_for_backward(history, w1, w2, real, inputs, hidden, routing)
        return routing @ history, routing

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_interests: Tensor, grad_routing: Tensor
    ) -> tuple[Tensor | None, ...]:
        history, w1, w2, real, inputs, hidden, routing = ctx.saved_tensors
        grad_interests = grad_interests.contiguous()
        grad_routing = grad_routing + grad_interests @ history.transpose(1, 2)
        grad_history = routing.transpose(1, 2) @ grad_interests
        inner = (routing * grad_routing).sum(dim=2, keepdim=True)
        grad_logits = routing * (grad_routing - inner)
        grad_logits = grad_logits.transpose(1, 2).flatten(0, 1).index_select(0, real)
        grad_w2 = hidden.T @ grad_logits
        grad_hidden = _tanh_project_backward(hidden, w2, grad_logits)
        grad_w1 = inputs.T @ grad_hidden
        grad_inputs = torch.zeros_like(grad_history)
        grad_inputs.view(-1, w1.shape[0]).index_copy_(0, real, grad_hidden @ w1.T)
        grad_positions = grad_inputs.sum(dim=0)
        return grad_history.add_(grad_inputs), None, grad_positions, grad_w1, grad_w2


def _has_native_code(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _tanh_project(hidden: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """tanh(hidden) (in place) and tanh(hidden) @ w2."""
    if not _has_native_code(hidden):
        hidden.tanh_()
        return hidden, hidden @ w2
    logits = torch.empty(len(hidden), w2.shape[1])
    C.tanh_project(hidden.numpy(), w2.detach().T.contiguous().numpy(), logits.numpy())
    return hidden, logits


def _tanh_project_backward(hidden: Tensor, w2: Tensor, grad_logits: Tensor) -> Tensor:
    """(grad_logits @ w2.T) * (1 - hidden^2)."""
    if not _has_native_code(hidden):
        return (grad_logits @ w2.T) * (1 - hidden.square())
    grad_hidden = torch.empty_like(hidden)
    projection = w2.detach().T.contiguous()
    C.tanh_project_backward(
        hidden.numpy(), projection.numpy(), grad_logits.numpy(), grad_hidden.numpy()
    )
    return grad_hidden


def for_triton(
    history: Tensor, length: Tensor, *parameters: Tensor
) -> tuple[list[Tensor], torch.dtype]:
    """Arguments as the kernels take them, and the dtype to multiply in."""
    dtype, device = history.dtype, history.device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if history.stride(2) != 1:
        history = history.contiguous()
    # Under autocast their dtypes may differ.
    dense = (x.to(history.dtype).contiguous() for x in parameters)
    return [history, length.contiguous(), *dense], dtype


def _triton(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor]:
    arguments, dtype = for_triton(history, length, positions, w1, w2)
    interests, routing = _Triton.apply(*arguments, dtype)
    return interests, routing


class _Triton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        history: Tensor,
        length: Tensor,
        positions: Tensor,
        w1: Tensor,
        w2: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        from . import self_attentive_launch  # triton is not imported where it is not used

        with full_precision(history.device):
            interests, routing = self_attentive_launch.forward(
                history, length, positions, w1, w2, dtype
            )
        ctx.dtype = dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(history, length, positions, w1, w2, routing)
        return interests, routing

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_interests: Tensor | None, grad_routing: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from . import self_attentive_launch

        history, length, positions, w1, w2, routing = ctx.saved_tensors
        if grad_interests is None:
            grad_interests = history.new_zeros((*routing.shape[:2], history.shape[2]))
        with full_precision(history.device):
            gradients = self_attentive_launch.backward(
                history, length, positions, w1, w2, routing, grad_interests.contiguous(),
                None if grad_routing is None else grad_routing.contiguous(), ctx.dtype,
            )  # fmt: skip
        return gradients[0], None, *gradients[1:], None
