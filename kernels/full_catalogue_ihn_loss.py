"""The IHN loss against the whole catalogue: the ideal distribution itself, no Monte Carlo."""

import math
from typing import Any

import torch
from torch import Tensor

from .ihn_loss import check_options
from .multi_interest_ihn_loss import (
    Losses,
    check_interests,
    check_table,
    multi_interest_ihn_loss_rows,
    rows_of,
    run_backend,
)


def full_catalogue_ihn_loss(
    interests: Tensor,
    target_ids: Tensor,
    item_table: Tensor,
    routing: Tensor | None,
    *,
    backend: str,
    **options: Any,
) -> Losses:
    """See `remi_fast.functional.full_catalogue_ihn_loss`."""
    check_interests(interests, routing)
    check_table(interests, target_ids, item_table)
    num_items = len(item_table)
    if num_items < 2:
        raise ValueError(f"item_table: got {num_items} rows, expected 2 or more, with padding")
    check_options(interests, num_items - 1, **options)

    def by_triton() -> Losses:
        from .ihn_loss_op import loss_of_catalogue  # triton is not imported where it is not used

        return loss_of_catalogue(interests, target_ids, item_table, routing, **options)

    def in_parts(name: str) -> Losses:
        return multi_interest_ihn_loss_rows(
            interests,
            rows_of("target_ids", target_ids, item_table),
            item_table[1:],
            routing,
            target_ids=target_ids,
            negative_ids=torch.arange(1, num_items, device=item_table.device),
            log_scale=math.log(max(num_items - 2, 1)),  # all but padding and the target
            backend=name,
            **options,
        )

    return run_backend(backend, interests, by_triton, in_parts)
