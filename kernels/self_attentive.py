"""ComiRec-SA interest extraction on the CPU: only the real positions go through the layers."""

import math
from typing import Any

import torch
from torch import Tensor

from . import reference
from .dispatch import choose, first_derivative_only
from .native import C


def self_attentive_extractor(
    history: Tensor,
    length: Tensor,
    positions: Tensor,
    w1: Tensor,
    w2: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """See `kernels.reference.self_attentive_extractor` for shapes and formula."""
    implementation = choose(
        "self_attentive_extractor",
        backend,
        {"native": _native, "reference": reference.self_attentive_extractor},
        history.device,
    )
    return implementation(history, length, positions, w1, w2)


def _native(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor]:
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
        logits = logits.view(batch, max_length, -1).transpose(1, 2).contiguous()
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
