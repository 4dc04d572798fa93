"""What every model offers: a history in, interests and routing out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Extractor(nn.Module, ABC):
    """Base of the interest extractors; `forward` is all that a new one has to have."""

    @abstractmethod
    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Interests and routing of embedded histories.

        history (B, L, d), right-padded, oldest item first; length (B,) ints in [0, L]; step: number
        of the training step, for what is random in it, None at inference. Returns interests
        (B, K, d) and routing (B, K, L), 0 on padding, which RR regularizes; None where an interest
        is not a mixture of the history's items.
        """

    def select(
        self, history: Tensor, length: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Each user's interest nearest to its target, and RR, in one operation: all that training
        needs of `forward`. None where there is no such operation.

        history and length as there, target (B, d) -> query (B, d), rr (B,). The choice has no
        gradient, and neither has the target.
        """
        return None

    def item_std(self, num_items: int) -> float | None:
        """Standard deviation of the initial item table (I, d); None is the usual sqrt(2 / d)."""
        return None
