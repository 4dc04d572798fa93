"""The loss as others compute it: written from the formulas, and two libraries where they run.

Every contestant is a `Formula`: of `LossInputs` the mean loss of the batch, REMI (IHN + RR) or the
plain sampled softmax (beta 0, no routing regularizer).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

import remi_fast.functional as F
from remi_fast.benchmark.published import HISTORY
from remi_fast.benchmark.turns import PLAIN, REMI
from remi_fast.errors import BenchmarkError
from remi_fast.kernels import ihn_loss_tiled, reference
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from remi_fast.losses import total_loss


@dataclass(frozen=True)
class Size:
    """A batch of `batch` users and what it is compared with."""

    batch: int
    negatives: int  # sampled; or the whole catalogue without its padding row
    dim: int = 64
    interests: int = 4
    history_length: int = HISTORY
    beta: float = 1.0
    rr_lambda: float = 100.0
    catalogue: bool = False

    def __str__(self) -> str:
        return f"{self.batch}x{self.negatives}" + ("-catalogue" if self.catalogue else "")


@dataclass(frozen=True)
class LossInputs:
    """interests (B, K, d), target (B, d), negatives (N, d), routing (B, K, L); target_ids (B,).

    Of a catalogue `negatives` is the table (I, d) with its padding row, and `target` is unused.
    """

    size: Size
    interests: Tensor
    target: Tensor
    negatives: Tensor
    routing: Tensor
    target_ids: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """What the loss is differentiated by."""
        return [self.interests, self.target, self.negatives, self.routing]

    def to(self, dtype: torch.dtype) -> "LossInputs":
        """New leaves of that dtype."""
        leaves = [x.detach().to(dtype, copy=True).requires_grad_() for x in self.leaves]
        interests, target, negatives, routing = leaves
        return LossInputs(self.size, interests, target, negatives, routing, self.target_ids)

    def plain(self) -> "LossInputs":
        """The same leaves, for the sampled softmax."""
        return replace(self, size=replace(self.size, beta=0.0, rr_lambda=0.0))


def make_inputs(size: Size, device: torch.device, dtype: torch.dtype) -> LossInputs:
    """Normal numbers, scores of standard deviation 2; the same on every device."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).mul_(0.5)

    def leaf(x: Tensor) -> Tensor:
        return x.to(device, dtype).requires_grad_()

    rows = size.negatives + size.catalogue
    interests = normal(size.batch, size.interests, size.dim)
    target, negatives = normal(size.batch, size.dim), normal(rows, size.dim)
    routing = normal(size.batch, size.interests, size.history_length).softmax(dim=2)
    ids = torch.randint(1, rows, (size.batch,), generator=generator).to(device)
    return LossInputs(size, leaf(interests), leaf(target), leaf(negatives), leaf(routing), ids)


@dataclass(frozen=True)
class Formula:
    """One way to compute the loss."""

    loss: Callable[[LossInputs], Tensor]
    plain: bool = False  # the sampled softmax, not REMI
    compiled: bool = False  # by torch.compile, on a CPU

    def __call__(self, x: LossInputs) -> Tensor:
        return self.loss(x.plain() if self.plain else x)


def ours(x: LossInputs) -> Tensor:
    """remi-fast."""
    options: dict[str, Any] = {
        "beta": x.size.beta,
        "routing": x.routing if x.size.rr_lambda else None,
    }
    found: tuple[Tensor | None, ...]
    if x.size.catalogue:
        found = F.full_catalogue_ihn_loss(x.interests, x.target_ids, x.negatives, **options)
    else:
        found = multi_interest_ihn_loss_rows(x.interests, x.target, x.negatives, **options)
    loss, _, *rr = found
    assert loss is not None
    return total_loss(loss, rr[0] if rr else None, x.size.rr_lambda)


def _rows(x: LossInputs) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Target rows, negative rows and options for the formulas that take no table."""
    if not x.size.catalogue:
        return x.target, x.negatives, {}
    ids = torch.arange(1, len(x.negatives), device=x.negatives.device)
    scale = math.log(len(ids) - 1)  # all but the target
    options = {"target_ids": x.target_ids, "negative_ids": ids, "log_scale": scale}
    return x.negatives[x.target_ids], x.negatives[1:], options


def _with_rr(loss: Tensor, x: LossInputs) -> Tensor:
    rr = reference.routing_regularizer(x.routing, x.size.dim) if x.size.rr_lambda else None
    return total_loss(loss, rr, x.size.rr_lambda)


def tiles(x: LossInputs) -> Tensor:
    """The closed form in PyTorch tiles, which the CPU runs where it has no AVX2."""
    target, negatives, options = _rows(x)
    query, _ = reference.select_interest(x.interests, target)
    loss = ihn_loss_tiled.ihn_loss(query, target, negatives, beta=x.size.beta, **options)
    return _with_rr(loss, x)


def autograd(x: LossInputs) -> Tensor:
    """The formula with log-sum-exps, differentiated by autograd: the published loss repaired."""
    target, negatives, options = _rows(x)
    query, _ = reference.select_interest(x.interests, target)
    loss = reference.ihn_loss(query, target, negatives, beta=x.size.beta, **options)
    return _with_rr(loss, x)


def published(x: LossInputs) -> Tensor:
    """The published way (REMI, RecSys 2023): exponentials and their logarithms written out, one
    maximum that includes the target, and a look for inf and NaN that waits for the device."""
    query, _ = reference.select_interest(x.interests, x.target)
    target_score = (query * x.target).sum(dim=1, keepdim=True)
    scores = query @ x.negatives.T
    largest = torch.cat([target_score, scores], dim=1).detach().amax(dim=1, keepdim=True)
    positive = torch.exp(target_score - largest).squeeze(1)
    negative = torch.exp(scores - largest)
    importance = torch.exp(x.size.beta * torch.log(negative))
    hard = (importance * negative).sum(dim=1) / importance.mean(dim=1)
    loss = -torch.log(positive / (hard + positive))
    if torch.isinf(loss).any() or torch.isnan(loss).any():
        loss = torch.nan_to_num(loss)
    return _with_rr(loss, x)


def cut_cross_entropy(x: LossInputs) -> Tensor:
    """Cut your losses (Wijmans et al., ICLR 2025), plain softmax: its exact kernel on a GPU, what
    it offers elsewhere (torch.compile) on a CPU."""
    from cut_cross_entropy import linear_cross_entropy

    options: dict[str, Any] = {"impl": "torch_compile"}
    if x.negatives.is_cuda:
        options = {"impl": "cce", "filter_eps": None}
    return _of_cross_entropy(
        x, lambda q, n, y: linear_cross_entropy(q, n, y, reduction="none", **options)
    )


def liger(x: LossInputs) -> Tensor:
    """Liger's fused linear cross-entropy (Hsu et al., 2024), plain softmax."""
    if not x.negatives.is_cuda:
        raise BenchmarkError("its kernels are for GPUs only")
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused = LigerFusedLinearCrossEntropyLoss(reduction="none")
    return _of_cross_entropy(x, lambda q, n, y: fused(n, q, y))


def _of_cross_entropy(
    x: LossInputs, cross_entropy: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """The plain loss from somebody's cross-entropy of (query, rows, label): of a catalogue itself,
    of samples the log-sum-exp with a label that is added back, and the target outside."""
    target, negatives, _ = _rows(x)
    query, _ = reference.select_interest(x.interests, target)
    if x.size.catalogue:
        return cross_entropy(query, negatives, x.target_ids - 1).mean()
    label = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    log_sum_exp = cross_entropy(query, negatives, label) + query @ negatives[0]
    return softplus(log_sum_exp - (query * target).sum(dim=1)).mean()


def contestants(size: Size, peers: str) -> dict[str, Formula]:
    """By name; `REMI` is what the others are compared with.

    peers: "none", "eager" (the formulas) or "all" (also what is compiled, and the libraries, which
    may be missing).
    """
    found = {REMI: Formula(ours), PLAIN: Formula(ours, plain=True)}
    if peers == "none":
        return found
    found["PyTorch tiles"] = Formula(tiles)
    if not size.catalogue:
        found["published"] = Formula(published)
    found["autograd"] = Formula(autograd)
    found["autograd, plain"] = Formula(autograd, plain=True)
    if peers == "all":
        found["Liger, plain"] = Formula(liger, plain=True)
        found["autograd, compiled"] = Formula(torch.compile(autograd), compiled=True)
        found["cut-cross-entropy, plain"] = Formula(cut_cross_entropy, plain=True, compiled=True)
    return found


def truth(formula: Formula, x: LossInputs) -> list[Tensor]:
    """What it should compute, loss and gradients, in float64: by autograd, or by the tiles where
    that would not fit."""
    exact = x.to(torch.float64)
    exact = exact.plain() if formula.plain else exact
    small = x.size.batch * x.size.negatives <= 1 << 24
    loss = (autograd if small else tiles)(exact)
    return [loss.detach(), *differentiate(loss, exact)]


def differentiate(loss: Tensor, x: LossInputs) -> list[Tensor]:
    """Gradients by every leaf; zeros where there is none."""
    found = torch.autograd.grad(loss, x.leaves, allow_unused=True)
    leaves = zip(found, x.leaves, strict=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in leaves]
