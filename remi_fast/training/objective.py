"""What a step minimises, user by user: the ranking loss of its name, and RR."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from remi_fast.config import LossConfig
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from remi_fast.kernels.philox import SELECTION, random_words
from remi_fast.kernels.reference import routing_regularizer, select_interest
from remi_fast.losses import gbce_loss

Losses = tuple[Tensor, Tensor | None]  # ranking loss (B,), RR (B,) where there is a routing


class Objective:
    """`objective(step, interests, target, negatives, routing)`: the losses of a batch.

    ihn     REMI's interest-aware hard negatives, fused with the choice of the interest and RR
    gbce    gSASRec's generalised binary cross entropy

    With soft selection the interest is chosen before, and each takes it as the only one.
    """

    def __init__(
        self, loss: LossConfig, num_items: int, *, seed: int, backend: str = "auto"
    ) -> None:
        self.loss, self.num_items, self.seed, self.backend = loss, num_items, seed, backend
        self._losses = {"ihn": self._ihn, "gbce": self._gbce}[loss.name]

    def __call__(
        self,
        step: int | Tensor,
        interests: Tensor,
        target: Tensor,
        negatives: Tensor,
        routing: Tensor | None,
        *,
        beta: float | None = None,
        **candidates: Any,
    ) -> Losses:
        """interests (B, K, d), rows of targets (B, d) and negatives (N, d), routing (B, K, L).

        candidates: what there is to know of the negatives, as `ihn_loss` takes it.
        beta: None is that of the step. A step in a tensor is not read: it needs one, and hard
        selection.
        """
        if beta is None:
            beta = self.beta_at(int(step))
        if self.loss.selection == "hard":
            return self._losses(beta, interests, target, negatives, routing, **candidates)
        query, _ = soft_selection(
            interests, target, tau=self.loss.selection_tau, seed=self.seed, step=int(step)
        )
        ranking = self.of_query(step, query, target, negatives, beta=beta, **candidates)
        return ranking, _rr(routing, query)

    def of_query(
        self,
        step: int | Tensor,
        query: Tensor,
        target: Tensor,
        negatives: Tensor,
        *,
        beta: float | None = None,
        **candidates: Any,
    ) -> Tensor:
        """Ranking loss (B,) where each user's interest is chosen: query (B, d)."""
        if beta is None:
            beta = self.beta_at(int(step))
        ranking, _ = self._losses(beta, query[:, None], target, negatives, None, **candidates)
        return ranking

    def beta_at(self, step: int) -> float:
        """Hardness of this step's negatives; bench/self_tuning_beta.py overrides it."""
        return self.loss.beta_at(step)

    def _ihn(
        self,
        beta: float,
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
            beta=beta,
            detach_weights=self.loss.detach_weights,
            backend=self.backend,
            **candidates,
        )
        return ihn, rr

    def _gbce(
        self,
        beta: float,
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
        return gbce, _rr(routing, query)


def _rr(routing: Tensor | None, query: Tensor) -> Tensor | None:
    return None if routing is None else routing_regularizer(routing, query.shape[1])


def soft_selection(
    interests: Tensor, target: Tensor, *, tau: float, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """An interest of each user, drawn by its nearness to the target (BaM, eq. 7 and 8).

    P(k) = softmax_k(tau <v_k, e_target>), by Philox (user of the batch, step, SELECTION, seed).
    The draw itself has no gradient (Lee, Yun, Kang, IEEE BigData 2024).

    interests (B, K, d), target (B, d) -> query (B, d), chosen (B,) int64.
    """
    users = np.arange(len(interests))
    words = random_words(users, step, SELECTION, seed)[:, 0]
    uniform = torch.from_numpy((words + 0.5) / 2**32).to(interests)
    with torch.no_grad():
        scores = torch.einsum("bkd,bd->bk", interests, target)
        below = torch.softmax(tau * scores, dim=1).cumsum(dim=1)[:, :-1]
        chosen = (below < uniform[:, None]).sum(dim=1)
    return interests[torch.from_numpy(users), chosen], chosen
