"""The negatives of a training step: which items, and how probable each was."""

import math

import torch
from torch import Tensor

from remi_fast.config import LossConfig
from remi_fast.errors import ConfigError, DataError
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.kernels.proposal import Proposal, log_uniform


def needs_counts(loss: LossConfig) -> bool:
    """Whether the sampler has to know how often each item occurs in training."""
    return loss.sampler in ("popularity", "in-batch", "mixed")


def check_number(loss: LossConfig, num_items: int) -> None:
    """Raise ConfigError where there are not as many items as have to be drawn."""
    why, most = "without replacement", num_items - 1
    if loss.name == "gbce":
        why, most = "with loss.name 'gbce'", num_items - 2
    elif loss.replacement:
        return
    if loss.num_negatives > most:
        raise ConfigError(
            f"loss.num_negatives: got {loss.num_negatives} {why}, expected at most {most}, "
            "the number of items that can be drawn"
        )


class Candidates:
    """`candidates(step, target)`: ids (N,) and log q (N,), up to a constant (None: all alike).

    uniform      N items drawn uniformly, with replacement or without
    log-uniform  by rank of popularity, as TensorFlow's sampled softmax
    popularity   in proportion to (training interactions)^alpha
    in-batch     the targets of the batch; their q is how often each item is one
    mixed        N uniform ones and the targets; q is the mixture (Yang et al., WWW 2020)
    full         every item, 1..I-1, once: nothing is drawn

    with_targets: the targets are among them, and each row's own has to be left out.
    log_scale: log of the number of items that a row's candidates stand for; None is log N.
    """

    def __init__(
        self,
        loss: LossConfig,
        num_items: int,
        *,
        seed: int,
        counts: Tensor | None = None,
        device: torch.device | str = "cpu",
        backend: str = "auto",
    ) -> None:
        """counts (I,), where the sampler needs them: how often each item occurs in training, of
        "in-batch" and "mixed" as a target. Their scale means nothing.

        device: where the targets are, and the candidates go.

        Raises DataError where it needs them and nothing was counted.
        """
        self.num, self.num_items = loss.num_negatives, num_items
        self.replacement = loss.replacement
        self.seed, self.device, self.backend = seed, device, backend
        self.with_targets = loss.sampler in ("in-batch", "mixed", "full")
        self.draws = loss.sampler not in ("in-batch", "full")
        self.log_scale: float | None = None
        self._catalogue: Tensor | None = None
        if loss.sampler == "full":
            self._catalogue = torch.arange(1, num_items, device=device)
            self.log_scale = math.log(max(num_items - 2, 1))  # without the row's own target
        self._proposal: Proposal | None = None
        self._log_q: Tensor | None = None
        if loss.sampler == "log-uniform":
            self._proposal = log_uniform(num_items)
        elif needs_counts(loss):
            if counts is None or not counts[1:].any():
                raise DataError(f"loss.sampler {loss.sampler!r}: got no counts of the items")
            alpha = loss.sampler_alpha if loss.sampler == "popularity" else 1.0
            popularity = Proposal.of_weights(torch.where(counts > 0, counts.double() ** alpha, 0))
            if loss.sampler == "popularity":
                self._proposal = popularity
            else:
                self._log_q = popularity.log_q.to(device)
        if self._proposal is not None:
            self._proposal = self._proposal.to(torch.device(device))
            self._log_q = self._proposal.log_q

    def __call__(self, step: int | Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """The candidates of a batch with these targets (B,); step as in `sample_negatives`."""
        if self._catalogue is not None:
            return self._catalogue, None
        ids = target.long() if self.with_targets else target
        if self.draws:
            drawn = sample_negatives(
                self.num,
                self.num_items,
                seed=self.seed,
                step=step,
                sampler=self._proposal or "uniform",
                replacement=self.replacement,
                device=self.device,
                backend=self.backend,
            )
            ids = torch.cat([drawn, ids]) if self.with_targets else drawn
        if self._log_q is None:
            return ids, None
        log_q = self._log_q[ids]
        if self.draws and self.with_targets:
            shares = len(target) * log_q.exp() + self.num / (self.num_items - 1)
            log_q = torch.log(shares / len(ids))
        return ids, log_q
