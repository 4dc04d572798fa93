"""The capsule models: ComiRec-DR (Cen et al., KDD 2020) and MIND (Li et al., CIKM 2019)."""

import math

import torch
from torch import Tensor, nn

from remi_fast.kernels.capsule_routing import capsule_routing
from remi_fast.kernels.philox import INIT, ROUTING, standard_normal
from remi_fast.models.extractor import Extractor


class DynamicRoutingExtractor(Extractor):
    """ComiRec-DR: every position votes for every interest, through a matrix of its own.

    Parameters (published initialisation): weight (L, K d, d), standard deviation
    sqrt(2 / (L K d d)). `through_routing`: RR is used, so routing gets a gradient (not published).
    """

    def __init__(
        self,
        dim: int,
        num_interests: int,
        max_history: int,
        *,
        through_routing: bool = False,
        generator: torch.Generator | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_interests, self.through_routing = num_interests, through_routing
        self.backend = backend
        weight = torch.empty(max_history, num_interests * dim, dim)
        std = math.sqrt(2 / (max_history * num_interests * dim * dim))
        self.weight = nn.Parameter(weight.normal_(0.0, std, generator=generator))

    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Extractor`; nothing is random here."""
        logits = history.new_zeros(1, self.num_interests, history.shape[1])
        return capsule_routing(
            history,
            length,
            self.weight,
            logits,
            through_routing=self.through_routing,
            backend=self.backend,
        )


class MindExtractor(Extractor):
    """MIND: one matrix for all positions and interests, and random initial logits.

    In training every sample of every step draws them anew from N(0, 1); at inference they are the
    same for all users, so that results repeat. Parameters: weight (d, d), standard deviation
    sqrt(2 / d). `through_routing` as in ComiRec-DR.
    """

    def __init__(
        self,
        dim: int,
        num_interests: int,
        *,
        seed: int,
        through_routing: bool = False,
        generator: torch.Generator | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_interests, self.seed, self.through_routing = num_interests, seed, through_routing
        self.backend = backend
        weight = torch.empty(dim, dim).normal_(0.0, math.sqrt(2 / dim), generator=generator)
        self.weight = nn.Parameter(weight)

    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Extractor`."""
        batch, positions, _ = history.shape
        shape = (1 if step is None else batch, self.num_interests, positions)
        stream = (0, INIT) if step is None else (step, ROUTING)
        drawn = standard_normal(math.prod(shape), *stream, self.seed)
        logits = torch.from_numpy(drawn).view(shape).to(history)
        return capsule_routing(
            history,
            length,
            self.weight,
            logits,
            through_routing=self.through_routing,
            backend=self.backend,
        )
