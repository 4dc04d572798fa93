"""The operations of REMI as functions, for any model and training loop.

    import remi_fast.functional as F

`backend` is "auto" (the fastest for the device), "triton" (GPU), "native" (CPU) or "reference"; a
name that cannot run is a ValueError, never a silent fallback. Half precision inputs are summed in
float32, and their losses are float32. Under autocast "triton" multiplies in autocast's dtype, the
others in float32. On a GPU "triton" never waits for the device and can be captured in a CUDA graph;
it gives a NaN loss where torch's own indexing would stop the GPU: at an id outside the table. It
works under torch.compile without a graph break, activation checkpointing and DDP. Only "reference"
has second derivatives; the others raise RuntimeError. An empty batch has losses (0,), no negatives
are losses of 0. NaN in a vector gives a loss of NaN, infinity a loss or a gradient that is not
finite. An argument of another type, such as a list for a tensor, is a TypeError that names it.
"""

import torch
from torch import Tensor

from remi_fast.kernels.checks import check_tensor
from remi_fast.kernels.full_catalogue_ihn_loss import (
    full_catalogue_ihn_loss as _full_catalogue_ihn_loss,
)
from remi_fast.kernels.ihn_loss import ihn_loss as _ihn_loss
from remi_fast.kernels.multi_interest_ihn_loss import (
    multi_interest_ihn_loss as _multi_interest_ihn_loss,
)
from remi_fast.kernels.negatives import sample_negatives as _sample_negatives
from remi_fast.kernels.proposal import Proposal
from remi_fast.kernels.reference import routing_regularizer as _routing_regularizer

__all__ = [
    "full_catalogue_ihn_loss",
    "ihn_loss",
    "multi_interest_ihn_loss",
    "routing_regularizer",
    "sample_negatives",
    "Proposal",
]


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
    """Interest-aware hard negative loss (REMI, Xie et al., RecSys 2023, section 4.1), per row.

    With s_j = <query, negative_j> and s_y = <query, target>:

        log Z = LSE_j((1 + beta) s_j - log q_j) - LSE_j(beta s_j - log q_j) + log_scale
        loss  = softplus(log Z - s_y)

    beta 0 is the plain sampled softmax. The gradient flows through the importance weights.

    Args:
        query: (B, d) user vectors, any floating dtype.
        target: (B, d) vectors of the positive items.
        negatives: (N, d) vectors of the negatives, shared by the batch.
        beta: hardness, >= 0. "reference" loses digits of float32 from about 100 on, others do not.
        detach_weights: treat the importance weights as constants.
        log_q: (N,) log-probability of each negative under the proposal; None is uniform.
        target_log_q: (B,) subtracted from the target's score (the logQ correction). Both log q are
            constants: no gradient reaches them.
        log_scale: log of the number of items the sum stands for; log N if None.
        target_ids, negative_ids: (B,) and (N,) item ids; a negative equal to the row's target is
            left out, and a row with no negative left has loss 0.
        backend: see the module.

    Returns:
        (B,) losses.

    Raises:
        ValueError: naming the argument whose shape, dtype, device or value is wrong.
    """
    return _ihn_loss(
        query,
        target,
        negatives,
        beta=beta,
        detach_weights=detach_weights,
        log_q=log_q,
        target_log_q=target_log_q,
        log_scale=log_scale,
        target_ids=target_ids,
        negative_ids=negative_ids,
        backend=backend,
    )


def multi_interest_ihn_loss(
    interests: Tensor,
    target_ids: Tensor,
    item_table: Tensor,
    negative_ids: Tensor | None = None,
    *,
    beta: float,
    routing: Tensor | None = None,
    num_negatives: int | None = None,
    seed: int = 0,
    step: int | Tensor = 0,
    mask_hits: bool = False,
    detach_weights: bool = False,
    log_q: Tensor | None = None,
    target_log_q: Tensor | None = None,
    log_scale: float | None = None,
    sparse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """IHN loss of a multi-interest model on a plain item table.

    Each user's interest nearest to the target (largest inner product) is trained; the choice has
    no gradient (ComiRec, Cen et al., KDD 2020, eq. 9).

    Args:
        interests: (B, K, d).
        target_ids: (B,) int item ids.
        item_table: (I, d) item vectors, the dtype of `interests` (any under autocast).
        negative_ids: (N,) int item ids; None draws `num_negatives` of them.
        beta, detach_weights, log_q, target_log_q, log_scale, backend: as in `ihn_loss`.
        routing: (B, K, L) routing weights; if given, the routing regularizer is returned too.
        num_negatives, seed, step: N, and what `sample_negatives` draws them by; a step in a tensor
            of one int64 on the device may change between replays of a CUDA graph.
        mask_hits: leave out negatives that are the row's target.
        sparse: make the gradient of `item_table` sparse instead of dense.

    Returns:
        loss (B,), chosen interest (B,) int64, and with `routing` also rr (B,).

    Raises:
        ValueError: naming the argument that is wrong. IndexError: an id outside the table
            (a NaN loss from "triton").
    """
    loss, chosen, rr = _multi_interest_ihn_loss(
        interests,
        target_ids,
        item_table,
        negative_ids,
        routing,
        num_negatives=num_negatives,
        seed=seed,
        step=step,
        mask_hits=mask_hits,
        sparse=sparse,
        backend=backend,
        beta=beta,
        detach_weights=detach_weights,
        log_q=log_q,
        target_log_q=target_log_q,
        log_scale=log_scale,
    )
    return (loss, chosen) if rr is None else (loss, chosen, rr)


def full_catalogue_ihn_loss(
    interests: Tensor,
    target_ids: Tensor,
    item_table: Tensor,
    *,
    beta: float,
    routing: Tensor | None = None,
    detach_weights: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """IHN loss against every item: the ideal distribution of REMI, section 4.1, no sampling.

    The negatives of a user are rows 1..I-1 but the user's own target. beta 0 is exactly the full
    softmax cross-entropy over rows 1..I-1. Memory grows with (B + I) d, never with B x I.

    Args:
        interests: (B, K, d).
        target_ids: (B,) int item ids in [1, I).
        item_table: (I, d) item vectors, row 0 the padding, which is never a negative.
        beta, detach_weights, backend: as in `ihn_loss`.
        routing: (B, K, L) routing weights; if given, the routing regularizer is returned too.

    Returns:
        loss (B,), chosen interest (B,) int64, and with `routing` also rr (B,).

    Raises:
        ValueError: naming the argument that is wrong. IndexError: an id outside the table
            (a NaN loss from "triton").
    """
    loss, chosen, rr = _full_catalogue_ihn_loss(
        interests,
        target_ids,
        item_table,
        routing,
        backend=backend,
        beta=beta,
        detach_weights=detach_weights,
    )
    return (loss, chosen) if rr is None else (loss, chosen, rr)


def routing_regularizer(routing: Tensor, dim: int) -> Tensor:
    """Variance penalty on the item-to-interest routing (REMI, section 4.2), per user.

        var_k = (1 / d) sum_l (A_kl - mean_l A_k)^2,   rr = sum_k var_k^2

    Args:
        routing: (B, K, L) routing weights A, 0 on padding (padding counts in the mean).
        dim: d, the embedding size.

    Returns:
        (B,).

    Raises:
        ValueError: if `routing` is not (B, K, L) of a floating dtype or `dim` < 1.
    """
    check_tensor("routing", routing)
    if routing.ndim != 3 or not routing.is_floating_point() or dim < 1:
        raise ValueError(
            f"got routing of shape {tuple(routing.shape)} {routing.dtype}, dim {dim}; "
            "expected (B, K, L) of a floating dtype, dim >= 1"
        )
    return _routing_regularizer(routing, dim)


def sample_negatives(
    num: int,
    num_items: int,
    *,
    seed: int,
    step: int | Tensor,
    sampler: str | Proposal = "uniform",
    replacement: bool = True,
    device: torch.device | str = "cpu",
    backend: str = "auto",
) -> Tensor:
    """Draw item ids, a pure function of (seed, step): the same on every backend.

    Args:
        num: how many, N.
        num_items: I, with the padding row 0, which is never drawn.
        seed: 64-bit seed.
        step: training step, < 2^32, or a tensor of one int64 (which "triton" reads on `device`).
        sampler: "uniform", "log-uniform" (by rank, item 1 being the most frequent), or
            `Proposal.of_weights(weights)` (I,), such as counts**0.75; its `log_q[ids]` is what
            `ihn_loss` corrects for.
        replacement: False draws N different ids, N < I, all sets of them alike ("uniform" only).
        device: where the ids are wanted; on a GPU "triton" draws them there.
        backend: see the module.

    Returns:
        (N,) int64 in [1, I).

    Raises:
        ValueError: naming the argument that is wrong.
    """
    return _sample_negatives(
        num,
        num_items,
        seed=seed,
        step=step,
        sampler=sampler,
        replacement=replacement,
        device=device,
        backend=backend,
    )
