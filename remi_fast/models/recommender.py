"""A multi-interest model: an item table and an extractor of interests from histories."""

import torch
from torch import Tensor, nn

from remi_fast.config import ModelConfig
from remi_fast.models.comirec_sa import SelfAttentiveExtractor
from remi_fast.models.item_table import ItemTable


class MultiInterestModel(nn.Module):
    """Histories in, K interest vectors per user out."""

    def __init__(self, table: ItemTable, extractor: nn.Module, max_history: int) -> None:
        super().__init__()
        self.table = table
        self.extractor = extractor
        self.max_history = max_history

    @property
    def num_items(self) -> int:
        """I, with the padding row."""
        return self.table.num_items

    @property
    def dim(self) -> int:
        """d."""
        return self.table.dim

    def rows(self, start: int, end: int) -> Tensor:
        """Up-to-date item vectors of rows start..end: (end - start, d)."""
        return self.table.rows(start, end)

    def read(self, ids: Tensor) -> Tensor:
        """Up-to-date item vectors of the rows `ids` (n,): (n, d)."""
        return self.table.read(ids)

    @torch.no_grad()
    def interests(self, history: Tensor, length: Tensor) -> Tensor:
        """history (n, L) int ids, right-padded with 0; length (n,) -> (n, K, d). Only reads."""
        interests: Tensor = self.extractor(self.table(history), length)[0]
        return interests


def make_model(
    config: ModelConfig, num_items: int, *, seed: int, backend: str = "auto"
) -> MultiInterestModel:
    """A freshly initialised model; a pure function of the arguments."""
    generator = torch.Generator().manual_seed(seed)
    extractor = SelfAttentiveExtractor(
        config.dim,
        config.num_interests,
        config.max_history,
        generator=generator,
        backend=backend,
    )
    table = ItemTable(num_items, config.dim, generator=generator)
    return MultiInterestModel(table, extractor, config.max_history)
