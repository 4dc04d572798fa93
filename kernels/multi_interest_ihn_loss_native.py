"""The multi-interest IHN loss in C++ (csrc/ihn_loss.cpp): one operation, float32 on the CPU."""

from typing import Any

import torch
from torch import Tensor

from .dispatch import first_derivative_only
from .ihn_loss_tiled import Options
from .native import C
from .negatives import importance

LANES: int = C.IHN_LANES  # users the C++ code works on at a time
KEPT_SCORES = 1 << 18  # one megabyte: more are made again by the backward pass


def can_take(*tensors: Tensor | None) -> bool:
    """Whether the C++ code takes these: float32 on a CPU with AVX2."""
    given = [x for x in tensors if x is not None]
    on_cpu = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in given)
    return on_cpu and C.ihn_loss_available()


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the extension takes NumPy arrays
def multi_interest_ihn_loss_rows(
    interests: Tensor, target: Tensor, negatives: Tensor, routing: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """interests (B, K, d), target (B, d), negatives (N, d), routing (B, K, L), all float32.

    `options` are those of `ihn_loss`. Returns loss (B,), chosen (B,) int64, rr (B,) or None.
    """
    chosen_options = Options.of(len(negatives), **options)
    loss, chosen, rr = _Loss.apply(interests, target, negatives, routing, chosen_options)
    return loss, chosen, rr


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        interests: Tensor,
        target: Tensor,
        negatives: Tensor,
        routing: Tensor | None,
        options: Options,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        batch, _, dim = interests.shape
        empty = interests.new_empty
        loss, chosen = empty(batch), empty(batch, dtype=torch.int64)
        rr = None if routing is None else empty(batch)
        row_stats = empty((4, batch))
        slope = empty((batch, dim)) if ctx.needs_input_grad[0] else None
        blocks = -(-batch // LANES)
        keep = ctx.needs_input_grad[2] and 0 < blocks * LANES * len(negatives) <= KEPT_SCORES
        roots = empty((blocks, len(negatives), LANES)) if keep else None
        call = _call(interests, target, negatives, routing, options)
        call.forward(*map(_array, (loss, chosen, rr, row_stats, slope, roots)))
        ctx.save_for_backward(
            interests, target, negatives, routing, chosen, row_stats, slope, roots
        )
        ctx.options = options
        ctx.mark_non_differentiable(chosen)
        ctx.set_materialize_grads(False)
        return loss, chosen, rr

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, grad_loss: Tensor | None, _: None, grad_rr: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        interests, target, negatives, routing, *saved = ctx.saved_tensors
        inputs = (interests, target, negatives, routing)
        reaches = (grad_loss, grad_loss, grad_loss, grad_rr)
        gradients = [
            torch.empty_like(x, memory_format=torch.contiguous_format)
            if needed and gradient is not None
            else None
            for x, needed, gradient in zip(inputs, ctx.needs_input_grad, reaches, strict=False)
        ]
        call = _call(interests, target, negatives, routing, ctx.options)
        call.backward(*map(_array, (*saved, grad_loss, grad_rr, *gradients)))
        return *gradients, None


def _call(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    routing: Tensor | None,
    options: Options,
) -> Any:
    ids = [None if x is None else x.long() for x in (options.target_ids, options.negative_ids)]
    proposal = (importance(options.log_q), options.target_log_q)
    return C.IhnCall(
        *map(_array, (interests, target, negatives, routing, *ids)),
        *(_array(None if x is None else x.float()) for x in proposal),
        beta=options.beta,
        log_scale=options.log_scale,
        detach_weights=options.detach_weights,
    )


def _array(x: Tensor | None) -> Any:
    return None if x is None else x.detach().contiguous().numpy()
