"""Interest-aware hard negative loss with its gradient in closed form, tile by tile in PyTorch.

With s = query . negatives, a = (1 + beta) s - log q and b = beta s - log q:

    log Z = LSE(a) - LSE(b) + log_scale,  loss = softplus(log Z - s_y),  p = sigmoid(log Z - s_y)
    dloss/ds_y = -p,   dloss/ds_j = p ((1 + beta) softmax(a)_j - beta softmax(b)_j)

The forward keeps two sums and one maximum a row; the backward makes the scores again, unless all
of them fit in one tile, which is kept then. Nothing of size B x N is stored beyond one tile.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dispatch import first_derivative_only
from .reference import softplus

TILE_ELEMENTS = 1 << 18  # scores worked on at a time: one megabyte, which stays in the cache


@dataclass(frozen=True)
class Options:
    """The options of `remi_fast.functional.ihn_loss`, as an autograd.Function passes them on."""

    beta: float
    log_scale: float
    detach_weights: bool = False
    log_q: Tensor | None = None
    target_log_q: Tensor | None = None
    target_ids: Tensor | None = None
    negative_ids: Tensor | None = None

    @classmethod
    def of(cls, num_negatives: int, *, log_scale: float | None = None, **options: Any) -> "Options":
        """With log_scale's default: log of the number of negatives."""
        scale = math.log(max(num_negatives, 1)) if log_scale is None else log_scale
        return cls(log_scale=scale, **options)


def ihn_loss(query: Tensor, target: Tensor, negatives: Tensor, **options: Any) -> Tensor:
    """See `remi_fast.functional.ihn_loss`."""
    return _IHNLoss.apply(query, target, negatives, Options.of(len(negatives), **options))


class _IHNLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, target: Tensor, negatives: Tensor, options: Options
    ) -> Tensor:
        query, target, negatives = query.detach(), target.detach(), negatives.detach()
        maximum = query.new_full((len(query), 1), -math.inf)
        hard_sum = torch.zeros_like(maximum)  # sum exp((1 + beta)(s - max)) / q
        weight_sum = torch.zeros_like(maximum)  # sum exp(beta (s - max)) / q
        tiles = _tiles(len(query), len(negatives))
        for columns in tiles:
            scores = query @ negatives[columns].T
            same = _mask(scores, columns, options)
            new_maximum = torch.maximum(maximum, scores.amax(dim=1, keepdim=True))
            shift = _rescale(maximum, new_maximum)
            hard, weight = _exponentials(scores, new_maximum, columns, options)
            hard_sum = hard_sum * torch.exp((1 + options.beta) * shift)
            hard_sum += hard.sum(dim=1, keepdim=True)
            if weight is None:  # beta 0 without log q: every unmasked negative counts 1
                count = scores.shape[1] if same is None else (~same).sum(dim=1, keepdim=True)
                weight_sum += count
            else:
                if options.beta > 0:  # else the terms do not depend on the maximum
                    weight_sum = weight_sum * torch.exp(options.beta * shift)
                weight_sum += weight.sum(dim=1, keepdim=True)
            maximum = new_maximum
        target_score = (query * target).sum(dim=1)
        if options.target_log_q is not None:
            target_score -= options.target_log_q
        log_z = (maximum + hard_sum.log() - weight_sum.log()).squeeze(1) + options.log_scale
        margin = log_z - target_score
        margin.masked_fill_(weight_sum.squeeze(1) == 0, -math.inf)  # nothing to compare with
        tile = (hard, weight) if len(tiles) == 1 else ()
        ctx.save_for_backward(
            query, target, negatives, maximum, hard_sum, weight_sum, margin, *tile
        )
        ctx.options = options
        return softplus(margin)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        query, target, negatives, maximum, hard_sum, weight_sum, margin, *kept = ctx.saved_tensors
        options: Options = ctx.options
        strength = (grad_loss * torch.sigmoid(margin)).unsqueeze(1)  # dloss/dlogZ
        grad_target = -strength * query if ctx.needs_input_grad[1] else None
        grad_query = -strength * target if ctx.needs_input_grad[0] else None
        grad_negatives = torch.empty_like(negatives) if ctx.needs_input_grad[2] else None
        scale = 1.0 if options.detach_weights else 1 + options.beta
        # A row without any negative has sums of 0 and strength 0: keep 0 / 0 out.
        hard_factor = scale * strength / hard_sum.masked_fill(hard_sum == 0, 1)
        weight_factor = options.beta * strength / weight_sum.masked_fill(weight_sum == 0, 1)
        for columns in _tiles(len(query), len(negatives)):
            if kept:
                hard, weight = kept
            else:
                scores = query @ negatives[columns].T
                _mask(scores, columns, options)
                hard, weight = _exponentials(scores, maximum, columns, options)
            slope = hard * hard_factor
            if weight is not None and options.beta > 0 and not options.detach_weights:
                slope.addcmul_(weight, weight_factor, value=-1)
            if grad_query is not None:
                grad_query.addmm_(slope, negatives[columns])
            if grad_negatives is not None:
                torch.mm(slope.T, query, out=grad_negatives[columns])
        return grad_query, grad_target, grad_negatives, None


def _tiles(rows: int, columns: int) -> list[slice]:
    width = max(1, TILE_ELEMENTS // max(rows, 1))
    return [slice(i, min(i + width, columns)) for i in range(0, columns, width)]


def _mask(scores: Tensor, columns: slice, options: Options) -> Tensor | None:
    """Set the scores of negatives that are the row's target to -inf; return where."""
    if options.target_ids is None or options.negative_ids is None:
        return None
    same = options.target_ids[:, None] == options.negative_ids[None, columns]
    scores.masked_fill_(same, -math.inf)
    return same


def _rescale(old: Tensor, new: Tensor) -> Tensor:
    """old - new where both may be -inf (nothing seen yet)."""
    return (old - new).masked_fill_(new == -math.inf, 0.0)


def _exponentials(
    scores: Tensor, maximum: Tensor, columns: slice, options: Options
) -> tuple[Tensor, Tensor | None]:
    """exp((1 + beta)(s - max)) / q and exp(beta (s - max)) / q; the latter None if it is 1.

    One exponential for both where beta is 0 or 1. `scores` is used up.
    """
    shifted = scores.sub_(maximum.masked_fill(maximum == -math.inf, 0.0))
    if options.log_q is None and options.beta == 0:
        return shifted.exp_(), None
    if options.log_q is None and options.beta == 1:
        weight = shifted.exp_()
        return weight * weight, weight
    minus_log_q: Tensor | float = 0.0
    if options.log_q is not None:
        minus_log_q = (options.log_q.min() - options.log_q[columns]).to(scores)
    # beta = 0 times -inf is NaN: masked scores get their 0 from the first exponential's mask
    masked = shifted == -math.inf if options.target_ids is not None else None
    weight = torch.exp(shifted * options.beta + minus_log_q)
    hard = shifted.mul_(1 + options.beta).add_(minus_log_q).exp_()
    if masked is not None:
        weight.masked_fill_(masked, 0.0)
    return hard, weight
