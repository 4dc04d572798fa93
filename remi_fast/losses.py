"""The REMI loss as a module, and the one place where its two parts are added up."""

from torch import Tensor, nn

import remi_fast.functional as F

PUBLISHED_BATCH = 128  # the published code sums RR over a batch of 128 instead of averaging it


def total_loss(ihn: Tensor, rr: Tensor | None, rr_lambda: float) -> Tensor:
    """mean(ihn) + 128 lambda mean(rr): the published total at batch 128, at any batch size.

    ihn (B,), rr (B,) or None -> scalar.
    """
    if rr is None or rr_lambda == 0:
        return ihn.mean()
    return ihn.mean() + PUBLISHED_BATCH * rr_lambda * rr.mean()


class REMILoss(nn.Module):
    """IHN + RR (REMI, Xie et al., RecSys 2023) for a multi-interest model of your own.

    loss = REMILoss(beta=1.0, rr_lambda=100.0)
    negatives = F.sample_negatives(1280, num_items, seed=1, step=step)
    loss(interests, target_ids, item_embedding.weight, negatives, routing).backward()
    """

    def __init__(
        self,
        beta: float = 1.0,
        rr_lambda: float = 100.0,
        *,
        mask_hits: bool = False,
        detach_weights: bool = False,
        sparse: bool = False,
        backend: str = "auto",
    ) -> None:
        """See `functional.multi_interest_ihn_loss`; rr_lambda is the weight of RR.

        Raises ValueError if beta or rr_lambda is negative.
        """
        super().__init__()
        if beta < 0 or rr_lambda < 0:
            raise ValueError(f"got beta {beta}, rr_lambda {rr_lambda}; expected both >= 0")
        self.beta = beta
        self.rr_lambda = rr_lambda
        self.mask_hits = mask_hits
        self.detach_weights = detach_weights
        self.sparse = sparse
        self.backend = backend

    def forward(
        self,
        interests: Tensor,
        target_ids: Tensor,
        item_table: Tensor,
        negative_ids: Tensor,
        routing: Tensor | None = None,
    ) -> Tensor:
        """(B, K, d), (B,), (I, d), (N,) and routing (B, K, L) -> scalar loss.

        Raises ValueError if rr_lambda > 0 and there is no routing to regularize.
        """
        if routing is None and self.rr_lambda > 0:
            raise ValueError(
                "routing: got None, expected (B, K, L) because rr_lambda > 0; "
                "a model without routing trains with rr_lambda=0"
            )
        result = F.multi_interest_ihn_loss(
            interests,
            target_ids,
            item_table,
            negative_ids,
            beta=self.beta,
            routing=routing,
            mask_hits=self.mask_hits,
            detach_weights=self.detach_weights,
            sparse=self.sparse,
            backend=self.backend,
        )
        return total_loss(result[0], result[2] if len(result) == 3 else None, self.rr_lambda)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return f"beta={self.beta}, rr_lambda={self.rr_lambda}"
