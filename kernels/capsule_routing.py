"""Dynamic routing of the capsule models on the CPU: matrix products in the place of sums."""

import torch
from torch import Tensor

from . import reference
from .dispatch import choose


def capsule_routing(
    votes: Tensor,
    length: Tensor,
    logits: Tensor,
    *,
    through_routing: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """See `kernels.reference.capsule_routing` for shapes and formula; three iterations.

    "native": votes that the interests share are never repeated for each of them, which is faster
    than the formula; for votes of each interest's own it is not (bench_capsule_routing.py).
    """
    implementation = choose(
        "capsule_routing",
        backend,
        {"native": _native, "reference": reference.capsule_routing},
        votes.device,
    )
    return implementation(votes, length, logits, through_routing=through_routing)


def _native(
    votes: Tensor, length: Tensor, logits: Tensor, *, through_routing: bool
) -> tuple[Tensor, Tensor]:
    padding = torch.arange(votes.shape[2], device=votes.device) >= length[:, None]
    votes = votes.masked_fill(padding[:, None, :, None], 0.0)
    with torch.no_grad():
        logits = _agree(votes, logits, padding)
        if not through_routing:
            logits = _agree(votes, logits, padding)
    if through_routing:
        logits = _agree(votes, logits, padding)
    routing = _routing(logits, padding)
    return reference.squash(_mix(routing, votes)), routing


def _agree(votes: Tensor, logits: Tensor, padding: Tensor) -> Tensor:
    """The logits after one iteration."""
    interests = reference.squash(_mix(_routing(logits, padding), votes))
    if votes.shape[1] == 1:
        return logits + interests @ votes[:, 0].transpose(1, 2)
    return logits + (votes @ interests[..., None])[..., 0]


def _routing(logits: Tensor, padding: Tensor) -> Tensor:
    return torch.softmax(logits, dim=2).masked_fill(padding[:, None, :], 0.0)


def _mix(routing: Tensor, votes: Tensor) -> Tensor:
    """sum_l c_kl votes_kl: (B, K, d)."""
    if votes.shape[1] == 1:
        return routing @ votes[:, 0]
    return (routing[:, :, None] @ votes)[:, :, 0]
