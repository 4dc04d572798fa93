"""ComiRec-SA: the self-attentive multi-interest extractor (Cen et al., KDD 2020)."""

import math

import torch
from torch import Tensor, nn

from remi_fast.kernels.self_attentive import self_attentive_extractor
from remi_fast.kernels.self_attentive_query import self_attentive_query
from remi_fast.models.extractor import Extractor


class SelfAttentiveExtractor(Extractor):
    """Interests V = A H with routing A = softmax_L(W2 tanh(W1 (H + P))).

    Parameters (published initialisation: normal, kaiming): positions P (L, d), w1 (d, 4d),
    w2 (4d, K); no biases. Positions enter the routing only.
    """

    def __init__(
        self,
        dim: int,
        num_interests: int,
        max_history: int,
        *,
        generator: torch.Generator | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.backend = backend
        hidden = 4 * dim
        # kaiming_normal_ takes the product of all but the first dimension as the fan: d for W1,
        # 4d for W2 as published, L d for the positions, which the authors keep as (1, L, d).
        shapes = {
            "positions": (max_history, dim, max_history * dim),
            "w1": (dim, hidden, dim),
            "w2": (hidden, num_interests, hidden),
        }
        for name, (rows, columns, fan) in shapes.items():
            value = torch.empty(rows, columns)
            value.normal_(0.0, math.sqrt(2 / fan), generator=generator)
            self.register_parameter(name, nn.Parameter(value))
        self.positions: nn.Parameter
        self.w1: nn.Parameter
        self.w2: nn.Parameter

    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Extractor`; nothing is random here."""
        return self_attentive_extractor(
            history, length, self.positions, self.w1, self.w2, backend=self.backend
        )

    def select(self, history: Tensor, length: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `Extractor`."""
        query, _, rr = self_attentive_query(
            history, length, self.positions, self.w1, self.w2, target, backend=self.backend
        )
        return query, rr
