"""What remi-fast is compared with: the published recipe, and the same recipe repaired.

Written from the formulas of the papers (REMI, RecSys 2023; ComiRec, KDD 2020) and from a
description of the published program: a Python iterator that makes one sample at a time, with two
L x L matrices per sample that no REMI model reads; plain autograd; dense Adam over the whole item
table.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from remi_fast.benchmark.published import MIN_HISTORY
from remi_fast.kernels import reference
from remi_fast.losses import total_loss


def python_iterator(
    histories: list[list[int]],
    batch_size: int,
    max_history: int,
    *,
    matrices: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The published way to make batches: history (B, L), length (B,), target (B,), int64."""
    generator = random.Random(1)
    while True:
        rows, lengths, targets, unused = [], [], [], []
        for user in generator.sample(range(len(histories)), batch_size):
            items = histories[user]
            place = generator.choice(range(MIN_HISTORY, len(items)))
            past = items[max(0, place - max_history) : place]
            targets.append(items[place])
            lengths.append(len(past))
            padded = past + [0] * (max_history - len(past))
            rows.append(padded)
            if matrices:
                unused.append((_time_matrix(max_history), _adjacency(padded, max_history)))
        yield torch.tensor(rows), torch.tensor(lengths), torch.tensor(targets)
        if matrices:  # they are turned into tensors, too
            torch.tensor(np.array([times for times, _ in unused]))
            torch.tensor(np.array([edges for _, edges in unused]))


def _time_matrix(length: int) -> np.ndarray:
    """Distances between the times (here: positions) of all pairs, cut off at 64."""
    times = np.zeros((length, length), dtype=np.int32)
    for i in range(length):
        for j in range(length):
            times[i][j] = min(abs(i - j), 64)
    return times


def _adjacency(padded: list[int], length: int) -> np.ndarray:
    """Normalised in- and out-edges of the item graph of a session: (L, 2 L)."""
    nodes = np.unique(padded)
    edges = np.zeros((length, length))
    for i in range(length - 1):
        if padded[i + 1] == 0:
            break
        here = np.where(nodes == padded[i])[0][0]
        there = np.where(nodes == padded[i + 1])[0][0]
        edges[here][there] = 1
    incoming = edges.sum(0)
    incoming[incoming == 0] = 1
    outgoing = edges.sum(1)
    outgoing[outgoing == 0] = 1
    return np.concatenate([edges / incoming, (edges.T / outgoing).T], axis=1)


class EagerModel(nn.Module):
    """ComiRec-SA as one module over an nn.Embedding with dense gradients."""

    def __init__(self, num_items: int, dim: int, num_interests: int, max_history: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, dim, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(max_history, dim))
        self.w1 = nn.Parameter(torch.randn(dim, 4 * dim) / dim**0.5)
        self.w2 = nn.Parameter(torch.randn(4 * dim, num_interests) / (4 * dim) ** 0.5)

    def forward(
        self,
        history: Tensor,
        length: Tensor,
        target: Tensor,
        negatives: Tensor,
        beta: float,
        rr_lambda: float,
    ) -> Tensor:
        """REMI's loss of one batch, by the reference formulas."""
        dim = self.items.embedding_dim
        past, chosen, others = self.rows(history, target, negatives)
        interests, routing = reference.self_attentive_extractor(
            past, length, self.positions, self.w1, self.w2
        )
        query, _ = reference.select_interest(interests, chosen)
        ihn = reference.ihn_loss(query, chosen, others, beta=beta)
        return total_loss(ihn, reference.routing_regularizer(routing, dim), rr_lambda)

    def rows(
        self, history: Tensor, target: Tensor, negatives: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Those of each, looked up by themselves, as published."""
        return self.items(history), self.items(target), self.items(negatives)


class RepairedModel(EagerModel):
    """The same with one lookup: three make three dense gradients of the table, and add them."""

    def rows(
        self, history: Tensor, target: Tensor, negatives: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Those of all at once."""
        sizes = [history.numel(), len(target), len(negatives)]
        ids = torch.cat([history.flatten(), target, negatives])
        past, chosen, others = self.items(ids).split(sizes)
        return past.view(*history.shape, -1), chosen, others
