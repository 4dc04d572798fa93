"""What training needs of ComiRec-SA: each user's interest nearest to the target, and RR.

The formula is `reference.self_attentive_query`. Triton makes both in the extractor's own kernels:
no other interest is stored, and neither is a gradient of interests or routing.
"""

from typing import Any

import torch
from torch import Tensor

from . import reference
from .checks import check_shapes, check_tensor
from .dispatch import choose, first_derivative_only, full_precision
from .self_attentive import check_layers, for_triton, native, too_large

Query = tuple[Tensor, Tensor, Tensor]  # query (B, d), chosen (B,) int64, rr (B,)


def self_attentive_query(
    history: Tensor,
    length: Tensor,
    positions: Tensor,
    w1: Tensor,
    w2: Tensor,
    target: Tensor,
    *,
    backend: str = "auto",
) -> Query:
    """See `kernels.reference.self_attentive_query` for shapes and formula.

    Dtypes, sizes and errors are those of `self_attentive_extractor`; the target (B, d) has the
    histories' dtype, too, and no gradient.
    """
    check_layers(history, length, positions, w1, w2)
    check_tensor("target", target)
    batch, _, dim = history.shape
    check_shapes("history", history, {"target": (target, (batch, dim))}, same_dtype=True)
    implementation = choose(
        "self_attentive_query",
        backend,
        {"triton": _triton, "native": _native, "reference": reference.self_attentive_query},
        history.device,
        triton_cannot=too_large(history, w2),
    )
    query, chosen, rr = implementation(history, length, positions, w1, w2, target)
    return query, chosen, rr


def _native(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor, target: Tensor
) -> Query:
    interests, routing = native(history, length, positions, w1, w2)
    query, chosen = reference.select_interest(interests, target)
    return query, chosen, reference.routing_regularizer(routing, history.shape[2])


def _triton(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor, target: Tensor
) -> Query:
    arguments, dtype = for_triton(history, length, positions, w1, w2, target.detach())
    query, chosen, rr = _Triton.apply(*arguments, dtype)
    return query, chosen, rr


class _Triton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        history: Tensor,
        length: Tensor,
        positions: Tensor,
        w1: Tensor,
        w2: Tensor,
        target: Tensor,
        dtype: torch.dtype,
    ) -> Query:
        from . import self_attentive_launch  # triton is not imported where it is not used

        with full_precision(history.device):
            query, chosen, rr, routing, variance = self_attentive_launch.select(
                history, length, positions, w1, w2, target, dtype
            )
        ctx.dtype = dtype
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(chosen)
        ctx.save_for_backward(history, length, positions, w1, w2, routing, chosen, variance)
        return query, chosen, rr

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_query: Tensor | None, _grad_chosen: None, grad_rr: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from . import self_attentive_launch

        history, length, positions, w1, w2, routing, chosen, variance = ctx.saved_tensors
        if grad_query is None:
            grad_query = history.new_zeros((len(history), history.shape[2]))
        if grad_rr is not None:
            grad_rr = grad_rr.contiguous()
        with full_precision(history.device):
            gradients = self_attentive_launch.backward(
                history, length, positions, w1, w2, routing, grad_query.contiguous(), None,
                ctx.dtype, chosen=chosen, variance=variance, grad_rr=grad_rr,
            )  # fmt: skip
        return gradients[0], None, *gradients[1:], None, None
