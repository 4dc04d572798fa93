"""DeferredAdam in a loop of one's own: which item follows an item? (Here the next by number.)"""

import torch

from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam

torch.manual_seed(1)
table, head = ItemTable(100_000, 32, std=0.2), torch.nn.Linear(32, 32)
optimizers = [DeferredAdam(table, lr=0.01), torch.optim.Adam(head.parameters(), lr=0.01)]
for step in range(151):
    last, negatives = torch.randint(1, 200, (64,)), torch.randint(1, 100_000, (32,))
    queries, targets, others = table.lookup(last, last + 1, negatives)  # only these are touched
    queries = head(queries)
    scores = torch.cat([(queries * targets).sum(1, keepdim=True), queries @ others.T], dim=1)
    loss = torch.nn.functional.cross_entropy(scores, torch.zeros(64, dtype=torch.int64))
    loss.backward()
    optimizers[0].merge_gradients()  # of equal ids, so that their norm is that of dense Adam's
    parameters = [p for each in optimizers for p in each.param_groups[0]["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for each in optimizers:
        each.step()
        each.zero_grad()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.3f}")  # noqa: T201
optimizers[0].flush()  # now table.weight is up to date, too
