"""A multi-interest model: an item table and an extractor of interests from histories."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from remi_fast.config import ModelConfig
from remi_fast.models.capsules import DynamicRoutingExtractor, MindExtractor
from remi_fast.models.comirec_sa import SelfAttentiveExtractor
from remi_fast.models.extractor import Extractor
from remi_fast.models.item_table import ItemTable
from remi_fast.models.single_vector import GRUExtractor, MeanExtractor, PopularityExtractor


class MultiInterestModel(nn.Module):
    """Histories in, K interest vectors per user out."""

    def __init__(self, table: ItemTable, extractor: Extractor, max_history: int) -> None:
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
        """history (n, L) int ids, right-padded with 0; length (n,) -> (n, K, d). Only reads.

        On any device; the interests are on the model's.
        """
        device = self.table.weight.device
        interests: Tensor = self.extractor(self.table(history.to(device)), length.to(device))[0]
        return interests


def make_model(
    config: ModelConfig,
    num_items: int,
    *,
    seed: int,
    through_routing: bool = False,
    backend: str = "auto",
) -> MultiInterestModel:
    """A freshly initialised model; a pure function of the arguments.

    through_routing: the routing of a capsule model has a gradient, which RR needs.
    """
    generator = torch.Generator().manual_seed(seed)
    dim, num_interests, max_history = config.dim, config.num_interests, config.max_history
    make: dict[str, Callable[[], Extractor]] = {
        "comirec-sa": lambda: SelfAttentiveExtractor(
            dim, num_interests, max_history, generator=generator, backend=backend
        ),
        "comirec-dr": lambda: DynamicRoutingExtractor(
            dim,
            num_interests,
            max_history,
            through_routing=through_routing,
            generator=generator,
            backend=backend,
        ),
        "mind": lambda: MindExtractor(
            dim,
            num_interests,
            seed=seed,
            through_routing=through_routing,
            generator=generator,
            backend=backend,
        ),
        "dnn": lambda: MeanExtractor(dim, generator=generator),
        "gru4rec": lambda: GRUExtractor(dim, seed=seed, generator=generator),
        "pop": PopularityExtractor,
    }
    extractor = make[config.name]()
    std = extractor.item_std(num_items)
    table = ItemTable(
        num_items,
        1 if config.name == "pop" else dim,
        std=std,
        generator=generator,
        room_for_moments=True,
    )
    return MultiInterestModel(table, extractor, max_history)
