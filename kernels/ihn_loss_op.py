"""The Triton loss as PyTorch operators, which autograd, torch.compile and fake tensors know.

`remi_fast::ihn_loss` is the forward, `remi_fast::ihn_loss_backward` its gradients. The functions
above them take rows, a table with ids, or a table as a whole.
"""

import math
from typing import Any

import torch
from torch import Tensor

from . import ihn_loss_launch as launches
from .ihn_loss_launch import Problem
from .multi_interest_ihn_loss import Losses
from .negatives import check_draw, importance
from .side_stream import side_stream


def loss_of_rows(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    routing: Tensor | None = None,
    *,
    log_q: Tensor | None = None,
    target_log_q: Tensor | None = None,
    log_scale: float | None = None,
    target_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    **options: Any,
) -> Losses:
    """interests (B, K, d), target rows (B, d), negative rows (N, d)."""
    count = len(negatives)
    results = _ihn_loss(
        interests, target, negatives, routing, target_ids, negative_ids, importance(log_q),
        target_log_q, None,
        log_scale=_log_scale(log_scale, count), source="rows", num_negatives=count,
        mask=target_ids is not None, **_by_caller(interests), **options,
    )  # fmt: skip
    return results[0], results[1], None if routing is None else results[2]


def loss_of_table(
    interests: Tensor,
    target_ids: Tensor,
    item_table: Tensor,
    negative_ids: Tensor | None,
    routing: Tensor | None = None,
    *,
    num_negatives: int = 0,
    seed: int = 0,
    step: int | Tensor = 0,
    log_q: Tensor | None = None,
    target_log_q: Tensor | None = None,
    log_scale: float | None = None,
    mask_hits: bool = False,
    **options: Any,
) -> Losses:
    """Rows of item_table (I, d); negative_ids None draws `num_negatives` by (seed, step)."""
    if negative_ids is None:
        check_draw(num_negatives, len(item_table), seed, step, interests.device)
    count = num_negatives if negative_ids is None else len(negative_ids)
    host_step, device_step = (0, step) if isinstance(step, Tensor) else (step, None)
    results = _ihn_loss(
        interests, item_table, item_table, routing, target_ids, negative_ids, importance(log_q),
        target_log_q, device_step,
        log_scale=_log_scale(log_scale, count), source="table", num_negatives=count,
        mask=mask_hits, seed=seed if seed < 2**63 else seed - 2**64,  # the same 64 bits
        step=host_step, **_by_caller(interests), **options,
    )  # fmt: skip
    return results[0], results[1], None if routing is None else results[2]


def loss_of_catalogue(
    interests: Tensor,
    target_ids: Tensor,
    item_table: Tensor,
    routing: Tensor | None = None,
    **options: Any,
) -> Losses:
    """Against all rows of item_table (I, d) but row 0 and the user's own target."""
    results = _ihn_loss(
        interests, item_table, item_table, routing, target_ids, None, None, None, None,
        log_scale=_log_scale(None, len(item_table) - 2), source="catalogue",
        num_negatives=len(item_table) - 1, mask=True, **_by_caller(interests), **options,
    )  # fmt: skip
    return results[0], results[1], None if routing is None else results[2]


def _log_scale(log_scale: float | None, count: int) -> float:
    return math.log(max(count, 1)) if log_scale is None else log_scale


def _by_caller(interests: Tensor) -> dict[str, Any]:
    """What autocast and autograd want of this call."""
    dtype, device = interests.dtype, interests.device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return {"dtype": dtype, "with_slope": torch.is_grad_enabled() and interests.requires_grad}


@torch.library.custom_op("remi_fast::ihn_loss", mutates_args=())
def _ihn_loss(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    routing: Tensor | None,
    target_ids: Tensor | None,
    negative_ids: Tensor | None,
    importance: Tensor | None,
    target_log_q: Tensor | None,
    device_step: Tensor | None,
    *,
    beta: float,
    log_scale: float,
    dtype: torch.dtype,
    source: str,
    num_negatives: int,
    mask: bool,
    with_slope: bool,
    detach_weights: bool = False,
    seed: int = 0,
    step: int = 0,
    sparse: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    draw = source == "table" and negative_ids is None
    problem = Problem(
        beta, detach_weights, log_scale, dtype, source, num_negatives, mask, draw, seed, step
    )
    return launches.forward(
        interests, target, negatives, routing, target_ids, negative_ids, importance, target_log_q,
        device_step, problem, with_slope=with_slope,
    )  # fmt: skip


@_ihn_loss.register_fake
def _(  # type: ignore[no-untyped-def]
    interests, target, negatives, routing, target_ids, negative_ids, *_,
    dtype, source, num_negatives, with_slope, **__,
):  # fmt: skip
    draw = source == "table" and negative_ids is None
    return launches.outputs(interests, routing, num_negatives if draw else 0, dtype, with_slope)


@torch.library.custom_op("remi_fast::ihn_loss_backward", mutates_args=())
def _ihn_loss_backward(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    routing: Tensor | None,
    target_ids: Tensor | None,
    negative_ids: Tensor | None,
    importance: Tensor | None,
    chosen: Tensor,
    row_stats: Tensor,
    slope: Tensor,
    grad_loss: Tensor | None,
    grad_rr: Tensor | None,
    *,
    beta: float,
    log_scale: float,
    dtype: torch.dtype,
    source: str,
    num_negatives: int,
    mask: bool,
    detach_weights: bool,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    problem = Problem(beta, detach_weights, log_scale, dtype, source, num_negatives, mask)
    out = launches.gradients(interests, target, negatives, routing, problem, wanted)
    beside = side_stream(interests.device)
    with beside.launches():
        if wanted[2] and grad_loss is not None:
            launches.backward_negatives(
                interests, negatives, target_ids, negative_ids, importance, chosen, row_stats,
                grad_loss, problem, out.negatives,
            )  # fmt: skip
        made = beside.mark()
    if wanted[0] or wanted[1] or wanted[3]:
        launches.backward_rows(
            interests, routing, chosen, row_stats, slope, grad_loss, grad_rr, out
        )
    made()
    return out


@_ihn_loss_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    interests, target, negatives, routing, *_, wanted, beta, log_scale, dtype, source,
    num_negatives, mask, detach_weights,
):  # fmt: skip
    problem = Problem(beta, detach_weights, log_scale, dtype, source, num_negatives, mask)
    return launches.gradients(interests, target, negatives, routing, problem, wanted)


def _keep(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Any
) -> None:
    _, chosen, _, drawn, row_stats, slope = output
    interests, target, negatives, routing, target_ids, negative_ids, importance, *_ = inputs
    options = dict(keyword_only_inputs)
    if options["source"] == "table" and negative_ids is None:
        negative_ids = drawn
    ctx.sparse = options.pop("sparse")
    for name in ("with_slope", "seed", "step"):
        del options[name]
    ctx.options = options
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        interests, target, negatives, routing, target_ids, negative_ids, importance,
        chosen, row_stats, slope,
    )  # fmt: skip


def _differentiate(
    ctx: Any, grad_loss: Tensor | None, _chosen: Any, grad_rr: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: checkpointing makes them again at each reading
    _, _, negatives, _, target_ids, negative_ids, *_ = saved
    through_loss = grad_loss is not None
    needs = ctx.needs_input_grad
    rows_are_target = ctx.options["source"] != "catalogue"  # there they are part of the table's
    wanted = [
        through_loss and needs[0],
        through_loss and needs[1] and rows_are_target,
        through_loss and needs[2],
        grad_rr is not None and needs[3],
    ]
    gradients = _ihn_loss_backward(*saved, grad_loss, grad_rr, wanted=wanted, **ctx.options)
    found = [g if want else None for g, want in zip(gradients, wanted, strict=True)]
    if ctx.options["source"] == "table" and wanted[2]:
        ids = torch.cat([target_ids.long(), negative_ids.long()])
        ids = ids.clamp(0, len(negatives) - 1)  # outside the table: nothing there may be written
        rows = torch.cat([gradients[1], gradients[2]])
        found[1], found[2] = _of_table(ids, rows, negatives, ctx.sparse), None
    return *found, *(None,) * 5


def _of_table(ids: Tensor, rows: Tensor, table: Tensor, sparse: bool) -> Tensor:
    if sparse:
        ids = ids.unsqueeze(0)
        return torch.sparse_coo_tensor(ids, rows, table.shape, check_invariants=False)
    return torch.ops.aten.embedding_dense_backward(rows, ids, len(table), -1, False)


def _refuse(_ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "the gradient of the IHN loss by backend 'triton' cannot be differentiated again: "
        "backend 'reference' can"
    )


_ihn_loss.register_autograd(_differentiate, setup_context=_keep)
_ihn_loss_backward.register_autograd(_refuse)
