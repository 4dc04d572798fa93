"""Interest-aware hard negative loss: arguments checked, backend chosen.

The formula is `reference.ihn_loss`; `multi_interest_ihn_loss_native.py` has it in C++,
`ihn_loss_tiled.py` tile by tile in PyTorch, `ihn_loss_triton.py` in Triton.
"""

from typing import Any

import torch
from torch import Tensor

from . import ihn_loss_tiled, multi_interest_ihn_loss_native, reference
from .checks import check_shapes, check_tensor, check_weight
from .dispatch import choose, full_precision, too_wide, widened


def ihn_loss(
    query: Tensor,
    target: Tensor,
    negatives: Tensor,
    *,
    beta: float,
    detach_weights: bool = False,
    log_q: Tensor | None = None,
    target_log_q: Tensor | None = None,
    log_scale: float | None = None,
    target_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """See `remi_fast.functional.ihn_loss`."""
    for name, vectors in (("query", query), ("target", target), ("negatives", negatives)):
        check_tensor(name, vectors)
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise ValueError(
                f"{name}: got {tuple(vectors.shape)} {vectors.dtype}, "
                "expected (n, d) of a floating dtype"
            )
    rows, dim = query.shape
    others = {"target": (target, (rows, dim)), "negatives": (negatives, (len(negatives), dim))}
    check_shapes("query", query, others, same_dtype=True)
    options: dict[str, Any] = {
        "beta": beta,
        "detach_weights": detach_weights,
        "log_q": log_q,
        "target_log_q": target_log_q,
        "log_scale": log_scale,
        "target_ids": target_ids,
        "negative_ids": negative_ids,
    }
    check_options(query, len(negatives), **options)
    implementation = choose(
        "ihn_loss",
        backend,
        {"triton": _triton, "native": _native, "reference": _reference},
        query.device,
        triton_cannot=too_wide(dim),
    )
    loss: Tensor = implementation(query, target, negatives, **options)
    return loss


def check_options(
    query: Tensor,
    num_negatives: int,
    *,
    beta: float,
    log_q: Tensor | None = None,
    target_log_q: Tensor | None = None,
    target_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    detach_weights: bool = False,
    log_scale: float | None = None,
) -> None:
    """Raise ValueError for what cannot be an option of the loss of len(query) users."""
    rows = len(query)
    vectors = {
        "log_q": (log_q, (num_negatives,)),
        "target_log_q": (target_log_q, (rows,)),
        "target_ids": (target_ids, (rows,)),
        "negative_ids": (negative_ids, (num_negatives,)),
    }
    check_shapes("query", query, vectors)
    for name, ids in (("target_ids", target_ids), ("negative_ids", negative_ids)):
        if ids is not None and (ids.is_floating_point() or ids.dtype == torch.bool):
            raise ValueError(f"{name}: got {ids.dtype}, expected integers")
    check_weight("beta", beta)
    if num_negatives >= 2**31:
        raise ValueError(f"negatives: got {num_negatives}, expected fewer than 2^31")
    if (target_ids is None) != (negative_ids is None):
        raise ValueError("target_ids and negative_ids: give both (equal ids are masked) or neither")


def _native(query: Tensor, target: Tensor, negatives: Tensor, **options: Any) -> Tensor:
    with full_precision(query.device):
        query, target, negatives = map(widened, (query, target, negatives))
        if multi_interest_ihn_loss_native.can_take(query, target, negatives):
            loss, _, _ = multi_interest_ihn_loss_native.multi_interest_ihn_loss_rows(
                query.unsqueeze(1), target, negatives, None, **options
            )
            return loss
        return ihn_loss_tiled.ihn_loss(query, target, negatives, **options)


def _reference(query: Tensor, target: Tensor, negatives: Tensor, **options: Any) -> Tensor:
    with full_precision(query.device):
        return reference.ihn_loss(*map(widened, (query, target, negatives)), **options)


def _triton(query: Tensor, target: Tensor, negatives: Tensor, **options: Any) -> Tensor:
    from .ihn_loss_op import loss_of_rows  # triton is not imported where it is not used

    loss, _, _ = loss_of_rows(query.unsqueeze(1), target, negatives, None, **options)
    return loss
