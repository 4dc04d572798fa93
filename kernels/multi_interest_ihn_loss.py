"""The loss of a multi-interest model: choose each user's interest, then its IHN loss."""

from typing import Any

from torch import Tensor

from .ihn_loss import ihn_loss
from .reference import select_interest


def multi_interest_ihn_loss_rows(
    interests: Tensor, target: Tensor, negatives: Tensor, *, backend: str = "auto", **options: Any
) -> tuple[Tensor, Tensor]:
    """interests (B, K, d), target rows (B, d), negative rows (N, d) -> loss (B,), chosen (B,).

    `options` are those of `ihn_loss`. The gradient reaches the chosen interest only.
    """
    query, chosen = select_interest(interests, target)
    return ihn_loss(query, target, negatives, backend=backend, **options), chosen
