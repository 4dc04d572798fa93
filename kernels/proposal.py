"""Distributions that negatives are drawn from, as alias tables that every backend reads alike."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .native import C

_WHOLE = 2**32  # a threshold that always keeps its column


@dataclass(frozen=True, eq=False)
class Proposal:
    """A distribution q over the items 1..I-1 (Walker's alias method, 1974).

    threshold (I-1,) int64 in [0, 2^32], alias (I-1,) int32: of a column i drawn uniformly, item
    i + 1 is kept with probability threshold / 2^32 and item alias + 1 taken otherwise.
    log_q (I,) float32: log q of every row, exactly as drawn; -inf where nothing is drawn, as row 0.
    """

    threshold: Tensor
    alias: Tensor
    log_q: Tensor

    @property
    def num_items(self) -> int:
        """I, with the padding row."""
        return len(self.log_q)

    @classmethod
    def of_weights(cls, weights: Tensor) -> "Proposal":
        """q in proportion to `weights` (I,), of which weights[0], the padding's, counts as 0.

        Raises ValueError unless they are finite, at least 0, and one of them is more.
        """
        values: npt.NDArray[np.float64] = weights.detach().cpu().double().numpy()[1:].copy()
        if not (values.size and np.isfinite(values).all() and values.min() >= 0 < values.max()):
            raise ValueError(
                f"weights: got {len(weights)} of sum {float(values.sum())}, "
                "expected finite numbers >= 0 of the items 1..I-1, not all 0"
            )
        threshold = np.zeros(len(values), dtype=np.int64)
        alias = np.zeros(len(values), dtype=np.int32)
        C.alias_table(values / values.max(), threshold, alias)
        taken = threshold.copy()
        np.add.at(taken, alias, _WHOLE - threshold)
        with np.errstate(divide="ignore"):
            log_q = np.log(taken) - math.log(_WHOLE) - math.log(len(values))
        padded = torch.from_numpy(np.concatenate([[-np.inf], log_q])).float()
        return cls(torch.from_numpy(threshold), torch.from_numpy(alias), padded)

    def to(self, device: torch.device) -> "Proposal":
        """The same in the memory of `device`."""
        return Proposal(*(t.to(device) for t in (self.threshold, self.alias, self.log_q)))


@lru_cache(maxsize=4)
def log_uniform(num_items: int) -> Proposal:
    """log((k + 1) / k) / log(I) for the item of rank k = 1..I-1, as TensorFlow draws classes.

    Items are numbered by falling frequency, so this is nearly Zipf's law.
    """
    rank = torch.arange(num_items, dtype=torch.float64)
    return Proposal.of_weights(torch.log1p(1 / rank.clamp_min(1)))
