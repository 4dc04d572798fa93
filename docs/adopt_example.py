"""A plain PyTorch model that is not ours (a small SASRec), step by step on remi-fast.

Its loop stays. Its loss becomes REMI's, and its nn.Embedding an ItemTable with DeferredAdam, so
that a step does not cost more with more items.
"""

import torch
from torch import nn

from remi_fast import DeferredAdam, ItemTable, REMILoss


class SASRec(nn.Module):
    """Self-attention over items (Kang and McAuley, ICDM 2018); the last position is the user."""

    def __init__(self, dim: int, max_history: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(max_history, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        return self.encoder(embedded + self.positions)[:, -1]


ITEMS, DIM, HISTORY, BATCH, NEGATIVES = 50_000, 32, 8, 64, 128
torch.manual_seed(0)
model = SASRec(DIM, HISTORY)
table = ItemTable(ITEMS, DIM, std=0.2)  # was: nn.Embedding(ITEMS, DIM, padding_idx=0)
loss_of = REMILoss(beta=0.5, rr_lambda=0)  # a single vector has no routing to regularize
optimizers = [DeferredAdam(table, lr=3e-3), torch.optim.Adam(model.parameters(), lr=3e-3)]
for step in range(201):
    first = torch.randint(1, 300, (BATCH, 1))  # toy data: items follow one another by number
    ids = first + torch.arange(HISTORY + 1)
    history, target = ids[:, :-1], ids[:, -1]
    negatives = torch.randint(1, ITEMS, (NEGATIVES,))
    embedded, candidates = table.lookup(history, torch.cat([target, negatives]))  # rows up to date
    user = model(embedded)
    places = torch.arange(BATCH + NEGATIVES)  # the candidates are a small table of their own
    loss = loss_of(user[:, None], places[:BATCH], candidates, places[BATCH:])
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.3f}")  # noqa: T201
