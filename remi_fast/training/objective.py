"""What a step minimises, user by user: the ranking loss of its name, and RR."""

from typing import Any

from torch import Tensor

from remi_fast.config import LossConfig
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from remi_fast.kernels.reference import routing_regularizer, select_interest
from remi_fast.losses import gbce_loss

Losses = tuple[Tensor, Tensor | None]  # ranking loss (B,), RR (B,) where there is a routing


class Objective:
    """`objective(step, interests, target, negatives, routing)`: the losses of a batch.

    ihn     REMI's interest-aware hard negatives, fused with the choice of the interest and RR
    gbce    gSASRec's generalised binary cross entropy of the nearest interest
    """

    def __init__(self, loss: LossConfig, num_items: int, *, backend: str = "auto") -> None:
        self.loss, self.num_items, self.backend = loss, num_items, backend
        self._losses = {"ihn": self._ihn, "gbce": self._gbce}[loss.name]

    def __call__(
        self,
        step: int,
        interests: Tensor,
        target: Tensor,
        negatives: Tensor,
        routing: Tensor | None,
        **candidates: Any,
    ) -> Losses:
        """interests (B, K, d), rows of targets (B, d) and negatives (N, d), routing (B, K, L).

        candidates: what there is to know of the negatives, as `ihn_loss` takes it.
        """
        return self._losses(step, interests, target, negatives, routing, **candidates)

    def _ihn(
        self,
        step: int,
        interests: Tensor,
        target: Tensor,
        negatives: Tensor,
        routing: Tensor | None,
        **candidates: Any,
    ) -> Losses:
        ihn, _, rr = multi_interest_ihn_loss_rows(
            interests,
            target,
            negatives,
            routing,
            beta=self.loss.beta_at(step),
            detach_weights=self.loss.detach_weights,
            backend=self.backend,
            **candidates,
        )
        return ihn, rr

    def _gbce(
        self,
        step: int,
        interests: Tensor,
        target: Tensor,
        negatives: Tensor,
        routing: Tensor | None,
        *,
        target_ids: Tensor | None,
        negative_ids: Tensor | None,
        **uniform: Any,  # nothing has to be corrected for
    ) -> Losses:
        query, _ = select_interest(interests, target)
        gbce = gbce_loss(
            query,
            target,
            negatives,
            num_items=self.num_items,
            t=self.loss.gbce_t,
            target_ids=target_ids,
            negative_ids=negative_ids,
        )
        return gbce, None if routing is None else routing_regularizer(routing, query.shape[1])
