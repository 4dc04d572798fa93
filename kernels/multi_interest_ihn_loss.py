"""The loss of a multi-interest model: choose each user's interest, its IHN loss, the routing
regularizer. Triton and C++ do it in one operation, PyTorch in three.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import multi_interest_ihn_loss_native as native
from .checks import check_inside, check_shapes, check_tensor
from .dispatch import choose, full_precision, too_wide, widened
from .ihn_loss import check_options, ihn_loss
from .negatives import sample_negatives
from .reference import routing_regularizer, select_interest

Losses = tuple[Tensor, Tensor, Tensor | None]  # loss (B,), chosen (B,) int64, rr (B,)


def multi_interest_ihn_loss_rows(
    interests: Tensor,
    target: Tensor,
    negatives: Tensor,
    routing: Tensor | None = None,
    *,
    backend: str = "auto",
    **options: Any,
) -> Losses:
    """interests (B, K, d), target rows (B, d), negative rows (N, d), routing (B, K, L).

    `options` are those of `ihn_loss`. The gradient reaches the chosen interest only.
    """
    batch, dim = check_interests(interests, routing)
    rows = {"target": (target, (batch, dim)), "negatives": (negatives, (len(negatives), dim))}
    check_shapes("interests", interests, rows, same_dtype=True)
    check_options(interests, len(negatives), **options)

    def by_triton() -> Losses:
        from .ihn_loss_op import loss_of_rows  # triton is not imported where it is not used

        return loss_of_rows(interests, target, negatives, routing, **options)

    def in_parts(name: str) -> Losses:
        with full_precision(interests.device):
            users, wanted, rows = map(widened, (interests, target, negatives))
            weights = None if routing is None else widened(routing)
            if name == "native" and native.can_take(users, wanted, rows, weights):
                return native.multi_interest_ihn_loss_rows(users, wanted, rows, weights, **options)
            query, chosen = select_interest(users, wanted)
            loss = ihn_loss(query, wanted, rows, backend=name, **options)
            rr = None if weights is None else routing_regularizer(weights, dim)
        return loss, chosen, rr

    return run_backend(backend, interests, by_triton, in_parts)


def multi_interest_ihn_loss(
    interests: Tensor,
    target_ids: Tensor,
    item_table: Tensor,
    negative_ids: Tensor | None,
    routing: Tensor | None,
    *,
    num_negatives: int | None,
    seed: int,
    step: int | Tensor,
    mask_hits: bool,
    sparse: bool,
    backend: str,
    **options: Any,
) -> Losses:
    """See `remi_fast.functional.multi_interest_ihn_loss`."""
    check_interests(interests, routing)
    check_table(interests, target_ids, item_table)
    if (negative_ids is None) == (num_negatives is None):
        raise ValueError("negative_ids, num_negatives: give one of the two")
    if num_negatives is None:
        assert negative_ids is not None
        num_negatives = len(negative_ids)
        check_id_vector("negative_ids", negative_ids, interests)
    check_options(interests, num_negatives, **options)

    def by_triton() -> Losses:
        from .ihn_loss_op import loss_of_table

        return loss_of_table(
            interests, target_ids, item_table, negative_ids, routing,
            num_negatives=num_negatives, seed=seed, step=step, mask_hits=mask_hits, sparse=sparse,
            **options,
        )  # fmt: skip

    def in_parts(name: str) -> Losses:
        ids = negative_ids
        if ids is None:
            ids = sample_negatives(
                num_negatives, len(item_table), seed=seed, step=step, device=item_table.device
            )
        return multi_interest_ihn_loss_rows(
            interests,
            rows_of("target_ids", target_ids, item_table, sparse=sparse),
            rows_of("negative_ids", ids, item_table, sparse=sparse),
            routing,
            target_ids=target_ids if mask_hits else None,
            negative_ids=ids if mask_hits else None,
            backend=name,
            **options,
        )

    return run_backend(backend, interests, by_triton, in_parts)


def run_backend(
    backend: str,
    interests: Tensor,
    by_triton: Callable[[], Losses],
    in_parts: Callable[[str], Losses],
) -> Losses:
    """Losses by Triton, or in parts by the backend of that name."""
    implementations: dict[str, Callable[[], Losses]] = {
        "triton": by_triton,
        "native": lambda: in_parts("native"),
        "reference": lambda: in_parts("reference"),
    }
    dim = interests.shape[2]
    chosen = choose(
        "multi_interest_ihn_loss", backend, implementations, interests.device,
        triton_cannot=too_wide(dim),
    )  # fmt: skip
    losses: Losses = chosen()
    return losses


def rows_of(name: str, ids: Tensor, item_table: Tensor, *, sparse: bool = False) -> Tensor:
    """Rows of the table; IndexError naming the first id outside of it (on the CPU)."""
    try:
        return torch.nn.functional.embedding(ids, item_table, sparse=sparse)
    except IndexError:
        check_inside(name, ids, len(item_table))
        raise


def check_interests(interests: Tensor, routing: Tensor | None) -> tuple[int, int]:
    """Raise ValueError unless interests are (B, K, d) and routing is (B, K, L); return B, d."""
    check_tensor("interests", interests)
    if interests.ndim != 3 or interests.shape[1] == 0 or not interests.is_floating_point():
        raise ValueError(
            f"interests: got {tuple(interests.shape)} {interests.dtype}, "
            "expected (B, K, d) of a floating dtype, K >= 1"
        )
    batch, num_interests, dim = interests.shape
    if routing is not None:
        check_tensor("routing", routing)
        if routing.ndim != 3 or not routing.is_floating_point():
            raise ValueError(
                f"routing: got shape {tuple(routing.shape)} {routing.dtype}, "
                "expected (B, K, L) of a floating dtype"
            )
        shape = (batch, num_interests, routing.shape[2])
        check_shapes("interests", interests, {"routing": (routing, shape)})
    return batch, dim


def check_table(interests: Tensor, target_ids: Tensor, item_table: Tensor) -> None:
    """Raise ValueError unless item_table is (I, d) and target_ids are (B,) integers."""
    batch, _, dim = interests.shape
    check_tensor("item_table", item_table)
    if item_table.ndim != 2 or len(item_table) == 0:
        raise ValueError(
            f"item_table: got shape {tuple(item_table.shape)}, expected (I, {dim}), I >= 1"
        )
    table = {"item_table": (item_table, (len(item_table), dim))}
    check_shapes("interests", interests, table, same_dtype=True)
    check_shapes("interests", interests, {"target_ids": (target_ids, (batch,))})
    check_id_vector("target_ids", target_ids, interests)


def check_id_vector(name: str, ids: Tensor, like: Tensor) -> None:
    """Raise ValueError unless ids are a vector of int32 or int64 on the device of `like`."""
    check_tensor(name, ids)
    if ids.ndim != 1 or ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"{name}: got {tuple(ids.shape)} {ids.dtype}, expected (n,) of int32 or int64"
        )
    check_shapes("interests", like, {name: (ids, (len(ids),))})
