"""The REMI loss as a module, the one place where its two parts are added up, and gBCE."""

from torch import Tensor, nn

import remi_fast.functional as F
from remi_fast.kernels.checks import check_shapes, check_tensor, check_weight, check_whole
from remi_fast.kernels.reference import softplus

PUBLISHED_BATCH = 128  # the published code sums RR over a batch of 128 instead of averaging it


def total_loss(ihn: Tensor, rr: Tensor | None, rr_lambda: float) -> Tensor:
    """mean(ihn) + 128 lambda mean(rr): the published total at batch 128, at any batch size.

    ihn (B,), rr (B,) or None -> scalar.
    """
    if rr is None or rr_lambda == 0:
        return ihn.mean()
    return ihn.mean() + rr_weight(rr_lambda) * rr.mean()


def rr_weight(rr_lambda: float) -> float:
    """What mean(rr) counts in the total."""
    return PUBLISHED_BATCH * rr_lambda


def gbce_loss(
    query: Tensor,
    target: Tensor,
    negatives: Tensor,
    *,
    num_items: int,
    t: float = 0.75,
    target_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
) -> Tensor:
    """Generalised binary cross entropy (gSASRec, Petrov and Macdonald, RecSys 2023), per row.

        beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha),   alpha = N / (I - 2)
        loss = -(beta log sigmoid(s_y) + sum_j log(1 - sigmoid(s_j))) / (1 + N)

    alpha is the sampling rate: the N uniform negatives' share of all items but padding and target.
    A baseline in plain PyTorch: it stores the (B, N) scores.

    Args:
        query: (B, d) user vectors, any floating dtype.
        target: (B, d) vectors of the positive items.
        negatives: (N, d) vectors of the negatives, shared by the batch, 1 <= N <= I - 2.
        num_items: I, with the padding row.
        t: calibration in [0, 1]: 0 is plain binary cross entropy; 1, that is beta = alpha, undoes
            all of the overconfidence that comes of few negatives.
        target_ids, negative_ids: (B,) and (N,) item ids; a negative equal to the row's target is
            left out of the row's sum and of its N.

    Returns:
        (B,) losses.

    Raises:
        ValueError: naming the argument whose shape, dtype, device or value is wrong.
    """
    check_tensor("query", query)
    if query.ndim != 2 or not query.is_floating_point():
        raise ValueError(
            f"query: got {tuple(query.shape)} {query.dtype}, expected (B, d) of a floating dtype"
        )
    check_tensor("negatives", negatives)
    (rows, dim), number = query.shape, negatives.shape[0] if negatives.ndim else 0
    vectors = {"target": (target, (rows, dim)), "negatives": (negatives, (number, dim))}
    check_shapes("query", query, vectors, same_dtype=True)
    ids = {"target_ids": (target_ids, (rows,)), "negative_ids": (negative_ids, (number,))}
    check_shapes("query", query, ids)
    if not 0 <= t <= 1:
        raise ValueError(f"t: got {t}, expected a number from 0 to 1")
    if not 1 <= number <= num_items - 2:
        raise ValueError(f"negatives: got {number}, expected 1 to num_items - 2 = {num_items - 2}")
    beta = 1 - t * (1 - number / (num_items - 2))
    positive = beta * softplus(-(query * target).sum(dim=1))
    negative = softplus(query @ negatives.T)
    if target_ids is None or negative_ids is None:
        return (positive + negative.sum(dim=1)) / (1 + number)
    other = target_ids[:, None] != negative_ids
    return (positive + (negative * other).sum(dim=1)) / (1 + other.sum(dim=1))


class REMILoss(nn.Module):
    """IHN + RR (REMI, Xie et al., RecSys 2023) for a multi-interest model of your own.

    loss = REMILoss(beta=1.0, rr_lambda=100.0, num_negatives=1280, seed=1)
    loss(interests, target_ids, item_embedding.weight, routing=routing, step=step).backward()

    or, with negatives of your own,

    loss = REMILoss(beta=1.0, rr_lambda=100.0)
    loss(interests, target_ids, item_embedding.weight, negative_ids, routing).backward()
    """

    def __init__(
        self,
        beta: float = 1.0,
        rr_lambda: float = 100.0,
        *,
        num_negatives: int | None = None,
        seed: int = 0,
        mask_hits: bool = False,
        detach_weights: bool = False,
        sparse: bool = False,
        backend: str = "auto",
    ) -> None:
        """See `functional.multi_interest_ihn_loss`.

        Args:
            rr_lambda: weight of RR.
            num_negatives, seed: draw that many negatives for the `step` of each call, the same
                ids as `functional.sample_negatives`; None takes the ids from the call.

        Raises ValueError or TypeError naming the argument that is out of range or no number.
        """
        super().__init__()
        check_weight("beta", beta)
        check_weight("rr_lambda", rr_lambda)
        if num_negatives is not None:
            check_whole("num_negatives", num_negatives)
            if num_negatives < 1:
                raise ValueError(f"num_negatives: got {num_negatives}, expected 1 or more, or None")
        check_whole("seed", seed)
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed: got {seed}, expected 64 bits")
        self.beta = beta
        self.rr_lambda = rr_lambda
        self.num_negatives = num_negatives
        self.seed = seed
        self.mask_hits = mask_hits
        self.detach_weights = detach_weights
        self.sparse = sparse
        self.backend = backend

    def forward(
        self,
        interests: Tensor,
        target_ids: Tensor,
        item_table: Tensor,
        negative_ids: Tensor | None = None,
        routing: Tensor | None = None,
        *,
        step: int | Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, a scalar; NaN, as every mean of nothing, for an empty batch.

        Args:
            interests: (B, K, d).
            target_ids: (B,) int item ids.
            item_table: (I, d) item vectors; gradients reach it and `interests`.
            negative_ids: (N,) int item ids, unless the module draws them.
            routing: (B, K, L) routing weights, which RR needs.
            step: training step by which the module draws its negatives; a tensor of one int64 on
                the device may change between replays of a CUDA graph.

        Raises:
            ValueError: naming the argument that is wrong: negatives neither given nor drawn, or
                both; rr_lambda > 0 and no routing to regularize; see
                `functional.multi_interest_ihn_loss`.
        """
        self._check_negatives(negative_ids, step)
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
            num_negatives=self.num_negatives,
            seed=self.seed,
            step=0 if step is None else step,
            mask_hits=self.mask_hits,
            detach_weights=self.detach_weights,
            sparse=self.sparse,
            backend=self.backend,
        )
        return total_loss(result[0], result[2] if len(result) == 3 else None, self.rr_lambda)

    def _check_negatives(self, negative_ids: Tensor | None, step: int | Tensor | None) -> None:
        if self.num_negatives is None:
            if negative_ids is None:
                raise ValueError(
                    "negative_ids: got None, expected (N,) item ids; "
                    "a module with num_negatives draws them itself"
                )
            if step is not None:
                raise ValueError("step: got one, but without num_negatives nothing is drawn")
        else:
            if negative_ids is not None:
                raise ValueError(
                    f"negative_ids: got ids, expected None: num_negatives={self.num_negatives} "
                    "are drawn"
                )
            if step is None:
                raise ValueError("step: got None, expected the training step to draw negatives by")

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        shown = {"beta": self.beta, "rr_lambda": self.rr_lambda, "backend": self.backend}
        if self.num_negatives is not None:
            shown |= {"num_negatives": self.num_negatives, "seed": self.seed}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
