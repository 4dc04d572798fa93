"""Baselines with one vector a user and no routing: YouTube DNN, GRU4Rec, popularity."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from remi_fast.kernels.philox import DROPOUT, random_words
from remi_fast.models.extractor import Extractor


class MeanExtractor(Extractor):
    """YouTube DNN (Covington et al., RecSys 2016), as REMI's authors have it: the mean of the
    history through one linear layer.

    Parameters: weight (d, d), standard deviation sqrt(2 / d); no bias, no ReLU.
    """

    def __init__(self, dim: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        weight = torch.empty(dim, dim).normal_(0.0, math.sqrt(2 / dim), generator=generator)
        self.weight = nn.Parameter(weight)

    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, None]:
        """See `Extractor`; a history of length 0 gives 0."""
        mean = _real(history, length).sum(dim=1) / length.clamp_min(1)[:, None]
        return (mean @ self.weight.T)[:, None], None


class GRUExtractor(Extractor):
    """GRU4Rec (Hidasi et al., ICLR 2016): dropout on the inputs, a GRU of width 2 d without bias,
    and a linear layer to d, at the last real position.

    Xavier's normal initialisation, of the item table too; the linear layer's bias starts at 0.
    """

    DROPOUT_RATE = 0.2

    def __init__(self, dim: int, *, seed: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.dim, self.seed = dim, seed
        self.gru = nn.GRU(dim, 2 * dim, bias=False, batch_first=True)
        self.linear = nn.Linear(2 * dim, dim)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_normal_(parameter, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def item_std(self, num_items: int) -> float:
        """Xavier's: sqrt(2 / (I + d))."""
        return math.sqrt(2 / (num_items + self.dim))

    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, None]:
        """See `Extractor`; a history of length 0 gives 0."""
        if step is not None:
            history = history * self._kept(history, step)
        states, _ = self.gru(history)
        last = states[torch.arange(states.shape[0]), (length.long() - 1).clamp_min(0)]
        vector = self.linear(last) * (length > 0)[:, None]
        return vector[:, None], None

    def _kept(self, history: Tensor, step: int) -> Tensor:
        """0 where an input is dropped, else 1 / (1 - rate); eight 16-bit numbers a block."""
        blocks = np.arange(-(-history.numel() // 8))
        words = random_words(blocks, step, DROPOUT, self.seed).view(np.uint16).reshape(-1)
        kept = words[: history.numel()] >= round(self.DROPOUT_RATE * 2**16)
        return torch.from_numpy(kept).view(history.shape).to(history) / (1 - self.DROPOUT_RATE)


class PopularityExtractor(Extractor):
    """Pop: everyone gets the most frequent items. Of dimension 1; the table holds the counts."""

    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, None]:
        """See `Extractor`: ones."""
        return history.new_ones(len(history), 1, 1), None


def _real(history: Tensor, length: Tensor) -> Tensor:
    """History with zeros on padding."""
    padding = torch.arange(history.shape[1], device=history.device) >= length[:, None]
    return history.masked_fill(padding[:, :, None], 0.0)
