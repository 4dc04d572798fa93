"""Every operation as its plain formula in PyTorch: the specification the fast versions are tested
against. Any floating dtype; differentiated by autograd; stores whatever is convenient.

Formulas: REMI (Xie et al., RecSys 2023), ComiRec (Cen et al., KDD 2020), Adam (Kingma and Ba,
2015); see docs/method.md.
"""

import math

import torch
from torch import Tensor


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
) -> Tensor:
    """Interest-aware hard negative loss per row; see `remi_fast.functional.ihn_loss`."""
    num_negatives = negatives.shape[0]
    if num_negatives == 0:  # nothing to compare with
        return (query * target).sum(dim=1) * 0 + negatives.sum() * 0
    scores = query @ negatives.T
    proposal = None if log_q is None else log_q.detach().to(scores).expand_as(scores)
    empty = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if target_ids is not None and negative_ids is not None:
        same = target_ids[:, None] == negative_ids[None, :]
        empty = same.all(dim=1)
        same = same & ~empty[:, None]  # rows without negatives are left out at the end
        uncorrected = torch.zeros_like(scores) if proposal is None else proposal
        proposal = uncorrected.masked_fill(same, math.inf)

    def corrected(exponents: Tensor) -> Tensor:
        return exponents if proposal is None else exponents - proposal

    if detach_weights:  # the weights of the mean of exp(s) are constants
        log_weights = torch.log_softmax(corrected(beta * scores.detach()), dim=1)
        log_mean_exp = torch.logsumexp(scores + log_weights, dim=1)
    else:
        log_mean_exp = torch.logsumexp(corrected((1 + beta) * scores), dim=1)
        log_mean_exp = log_mean_exp - torch.logsumexp(corrected(beta * scores), dim=1)
    target_score = (query * target).sum(dim=1)
    if target_log_q is not None:
        target_score = target_score - target_log_q.detach().to(scores)
    scale = math.log(num_negatives) if log_scale is None else log_scale
    margin = log_mean_exp + scale - target_score
    loss = softplus(margin)
    return torch.where(empty, torch.zeros_like(loss), loss)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), as exact as float64: x itself from 40 on; torch's 20 is too rough."""
    return torch.nn.functional.softplus(x, threshold=40)


def select_interest(interests: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The interest of each user nearest to the target: argmax_k <v_k, e_target> (ComiRec, eq. 9).

    interests (B, K, d), target (B, d) -> query (B, d), chosen (B,) int64. The choice itself has no
    gradient; on a tie the first interest wins.
    """
    with torch.no_grad():
        chosen = torch.einsum("bkd,bd->bk", interests, target).argmax(dim=1)
    return interests[torch.arange(len(chosen), device=chosen.device), chosen], chosen


def routing_regularizer(routing: Tensor, dim: int) -> Tensor:
    """Routing regularizer per user; see `remi_fast.functional.routing_regularizer`."""
    centred = routing - routing.mean(dim=2, keepdim=True)
    variance = centred.square().sum(dim=2) / dim
    return variance.square().sum(dim=1)


def self_attentive_extractor(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor]:
    """ComiRec-SA: interests and routing from the embedded history (ComiRec, section 3.3).

    A = softmax_L(W2 tanh(W1 (H + P))), V = A H.

    Shapes: history (B, L, d), length (B,) ints in [0, L] (right padding), positions (L, d),
    w1 (d, h), w2 (h, K) -> interests (B, K, d), routing (B, K, L), which is 0 on padding; a user
    of length 0 gets zeros.
    """
    steps = torch.arange(history.shape[1], device=history.device)
    padding = steps[None, :] >= length[:, None]
    logits = torch.tanh((history + positions) @ w1) @ w2
    logits = logits.masked_fill(padding[:, :, None], -math.inf)
    empty = (length == 0)[:, None, None]
    routing = torch.softmax(logits.masked_fill(empty, 0.0), dim=1)
    routing = routing.masked_fill(padding[:, :, None], 0.0).transpose(1, 2)
    values = history.masked_fill(padding[:, :, None], 0.0)
    return routing @ values, routing


def self_attentive_query(
    history: Tensor, length: Tensor, positions: Tensor, w1: Tensor, w2: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What training needs of ComiRec-SA: the interest nearest to the target, and RR.

    target (B, d), the others as for `self_attentive_extractor` -> query (B, d), chosen (B,) int64,
    rr (B,). The target has no gradient.
    """
    interests, routing = self_attentive_extractor(history, length, positions, w1, w2)
    query, chosen = select_interest(interests, target)
    return query, chosen, routing_regularizer(routing, history.shape[2])


_ITERATIONS = 3  # of capsule_routing


def capsule_routing(
    history: Tensor,
    length: Tensor,
    weight: Tensor,
    logits: Tensor,
    *,
    through_routing: bool,
) -> tuple[Tensor, Tensor]:
    """Interests and routing by dynamic routing (ComiRec, algorithm 1; MIND, section 3.3).

    Position l votes votes_kl = W_kl h_l for interest k (ComiRec), or W h_l for all (MIND). Every
    iteration: c = softmax_L(logits), 0 on padding; s_k = sum_l c_kl votes_kl;
    v_k = squash(s_k) = s_k |s_k| / (1 + |s_k|^2); and, except in the last,
    logits_kl += votes_kl . v_k.
    The gradient goes through the last iteration only, with c as constants, as published; with
    `through_routing` also through the logits' last update, so that RR has a gradient (ours). The
    initial logits have none.

    Shapes: history (B, L, d), length (B,) ints in [0, L] (right padding), weight (L, K d, d) or
    (d, d), logits (B or 1, K, L) -> interests (B, K, d), routing (B, K, L), 0 on padding.
    """
    padding = torch.arange(history.shape[1], device=history.device) >= length[:, None]
    votes = capsule_votes(history.masked_fill(padding[:, :, None], 0.0), weight)
    logits = logits.detach()
    for iteration in range(_ITERATIONS):
        routing = torch.softmax(logits, dim=2).masked_fill(padding[:, None, :], 0.0)
        last = iteration == _ITERATIONS - 1
        before_last = through_routing and iteration == _ITERATIONS - 2
        seen = votes if last or before_last else votes.detach()
        interests = squash((routing[..., None] * seen).sum(dim=2))
        if not last:
            logits = logits + (seen * interests[:, :, None]).sum(dim=3)
    return interests, routing


def capsule_votes(history: Tensor, weight: Tensor) -> Tensor:
    """Votes (B, K, L, d) by weight (L, K d, d), or (B, 1, L, d), which the interests share, by
    weight (d, d)."""
    if weight.ndim == 2:
        return (history @ weight.T)[:, None]
    batch, positions, dim = history.shape
    votes = history.transpose(0, 1) @ weight.transpose(1, 2)  # (L, B, K d)
    return votes.view(positions, batch, weight.shape[1] // dim, dim).permute(1, 2, 0, 3)


def squash(vector: Tensor) -> Tensor:
    """v |v| / (1 + |v|^2) along the last dimension (Sabour et al., 2017, eq. 1); 0 at 0."""
    square = vector.square().sum(dim=-1, keepdim=True)
    tiny = torch.finfo(vector.dtype).tiny
    length = square.clamp_min(tiny).sqrt()  # its derivative at 0 is 0 then, not infinite
    return vector * length / (1 + square)


def adam_catch_up(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    stamp: Tensor,
    *,
    lrs: list[float],
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Replay in place, with gradient 0, the Adam steps that each row has missed.

    weight, exp_avg, exp_avg_sq (R, d), stamp (R,) int: the step each row is at. lrs[j - 1] is the
    learning rate of step j; afterwards every touched row (stamp > 0) is at step len(lrs).
    """
    if not (stamp > 0).any():
        return
    for j in range(int(stamp[stamp > 0].min()) + 1, len(lrs) + 1):
        behind = (stamp > 0) & (stamp < j)
        gradient = torch.zeros_like(weight[behind])
        rows = (weight[behind], exp_avg[behind], exp_avg_sq[behind])
        adam_step(*rows, gradient, step=j, lr=lrs[j - 1], beta1=beta1, beta2=beta2, eps=eps)
        weight[behind], exp_avg[behind], exp_avg_sq[behind] = rows
        stamp[behind] = j


def adam_step(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One Adam step in place (Kingma and Ba, algorithm 1; eps placed as in torch.optim.Adam)."""
    exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    weight.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))


def interest_search(
    interests: Tensor, vectors: Tensor, k: int, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Exact retrieval by the best interest (ComiRec, eq. 6; MIND, section 4.5).

    interests (n, K, d); vectors (I - 1, d) of items 1, 2, ...; seen (n, s) int64 ids never to
    retrieve, padded with 0 -> ids, scores and interest, each (n, k): best first, equal scores by
    smaller id, the first of equal interests; id 0, score -inf, interest 0 where nothing is left.
    """
    scores, interest = torch.einsum("nhd,id->nhi", interests, vectors).max(dim=1)
    scores, interest = (torch.nn.functional.pad(x, (1, 0)) for x in (scores, interest))
    scores[:, 0] = -math.inf  # padding
    scores = scores.scatter(1, seen, -math.inf)
    scores = torch.nn.functional.pad(scores, (0, k), value=-math.inf)
    scores, ids = scores.sort(dim=1, descending=True, stable=True)
    scores, ids = scores[:, :k], ids[:, :k]
    ids = torch.where(scores == -math.inf, 0, ids)
    return ids, scores, torch.where(ids > 0, interest.gather(1, ids), 0)
