"""A multi-interest model of one's own: K learned queries attend to the history."""

import sys
import tempfile

import torch
from torch import Tensor, nn

from remi_fast.config import Config, TrainConfig
from remi_fast.data.demo import prepare_demo
from remi_fast.data.loader import BatchLoader
from remi_fast.models.extractor import Extractor
from remi_fast.models.item_table import ItemTable
from remi_fast.models.recommender import MultiInterestModel
from remi_fast.retrieval.evaluate import evaluate
from remi_fast.training.step import TrainingStep


class QueryAttention(Extractor):
    """All that a new model needs: embedded history in, interests and routing out."""

    def __init__(self, dim: int, num_interests: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_interests, dim) / dim**0.5)

    def forward(
        self, history: Tensor, length: Tensor, step: int | None = None
    ) -> tuple[Tensor, Tensor]:
        padding = torch.arange(history.shape[1]) >= length[:, None]
        scores = self.queries @ history.transpose(1, 2)  # (B, K, L)
        routing = scores.masked_fill(padding[:, None], -torch.inf).softmax(dim=2)
        return routing @ history, routing  # RR keeps the routing from collapsing onto one item


def say(what: str, value: float) -> None:
    print(f"{what}: {value:.4f}", flush=True)  # noqa: T201


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
torch.manual_seed(1)
with tempfile.TemporaryDirectory() as folder:
    data = prepare_demo(f"{folder}/data")
    config = Config(train=TrainConfig(batch_size=128))  # the published settings
    model = MultiInterestModel(ItemTable(data.num_items, 64), QueryAttention(64, 4), max_history=20)
    training_step = TrainingStep(model, config)  # samples negatives, IHN + RR, DeferredAdam
    say("validation recall@50 before training", evaluate(model, data, "valid")["recall@50"])
    with BatchLoader(
        data.items, data.train_users, data.train_spans, batch_size=128, max_history=20, seed=1
    ) as batches:
        for batch in batches:
            loss = training_step(batch.step, batch.history, batch.length, batch.target)
            done = batch.step + 1
            if done % 200 == 0:
                say(f"step {done} of {steps}, loss", loss.total)
            if done == steps:
                break
    say("validation recall@50 after training", evaluate(model, data, "valid")["recall@50"])
