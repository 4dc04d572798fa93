"""Whole training steps, side by side in one run: remi-fast, the published recipe, that repaired.

    python -m bench.end_to_end --items 368000 --save end_to_end_cpu

Contestants take turns, a few steps at a time, so that what else the machine does hits all alike.
First the losses and the tables after one step are compared on the same batch.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench import results
from bench.generated import sequences, spans
from bench.peers import EagerModel, python_iterator
from bench.turns import compared, show, take_turns
from remi_fast.config import Config, LossConfig
from remi_fast.data.loader import BatchLoader
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.models.recommender import make_model
from remi_fast.training.step import TrainingStep
from remi_fast.training.trainer import set_threads

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
ROUND_SECONDS = 1.5  # each contestant's turn


class Data:
    """The generated interactions, as our loader and as the published iterator want them."""

    def __init__(self, num_items: int, num_users: int) -> None:
        self.items, self.offsets = sequences(num_users, num_items, mean_length=15)
        self.num_items = num_items
        self.histories = [part.tolist() for part in self._split()]

    def _split(self) -> Iterator[Any]:
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.items[start:end]

    def loader(self, config: Config) -> BatchLoader:
        """Our batches."""
        return BatchLoader(
            self.items,
            *spans(self.offsets),
            batch_size=config.train.batch_size,
            max_history=config.model.max_history,
            seed=config.train.seed,
            threads=1,
        )


def ours(data: Data, config: Config) -> Callable[[], None]:
    """remi-fast as `remi-fast train` runs it."""
    step = TrainingStep(make_model(config.model, data.num_items, seed=1), config)
    batches = enumerate(data.loader(config))

    def run() -> None:
        number, batch = next(batches)
        step(number, batch.history, batch.length, batch.target)

    return run


def eager(
    data: Data, config: Config, batches: Iterator[Batch], *, fused: bool, compiled: bool = False
) -> Callable[[], None]:
    """Plain autograd and dense Adam over the whole table."""
    model = EagerModel(
        data.num_items, config.model.dim, config.model.num_interests, config.model.max_history
    )
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optim.lr, fused=fused or None)
    loss = config.loss

    def run() -> None:
        history, length, target = next(batches)
        negatives = torch.randint(1, data.num_items, (loss.num_negatives,))
        optimizer.zero_grad()
        value = forward(history, length, target, negatives, loss.beta, loss.rr_lambda)
        value.backward()
        optimizer.step()
        value.item()

    return run


def tensors(loader: BatchLoader) -> Iterator[Batch]:
    """Our loader's batches for the eager model."""
    for batch in loader:
        yield batch.history.long(), batch.length, batch.target.long()


def contestants(data: Data, config: Config) -> dict[str, Callable[[], None]]:
    """By name; the first is what the others are compared with."""
    plain = Config(loss=LossConfig(beta=0.0, rr_lambda=0.0))
    size, width = config.train.batch_size, config.model.max_history

    def published(matrices: bool) -> Iterator[Batch]:
        return python_iterator(data.histories, size, width, matrices=matrices)

    return {
        "remi-fast": ours(data, config),
        "remi-fast, plain sampled softmax": ours(data, plain),
        "published, L x L matrices": eager(data, config, published(True), fused=False),
        "published, without them": eager(data, config, published(False), fused=False),
        "repaired: our loader, fused Adam": eager(
            data, config, tensors(data.loader(config)), fused=True
        ),
        "repaired and torch.compile": eager(
            data, config, tensors(data.loader(config)), fused=True, compiled=True
        ),
    }


def check(data: Data, config: Config) -> dict[str, float]:
    """Loss, and weights after one step, of remi-fast and the eager model on the same batch."""
    model = make_model(config.model, data.num_items, seed=1)
    peer = EagerModel(data.num_items, model.dim, config.model.num_interests, model.max_history)
    with torch.no_grad():
        peer.items.weight.copy_(model.table.weight)
        for name in ("positions", "w1", "w2"):
            getattr(peer, name).copy_(getattr(model.extractor, name))
    step = TrainingStep(model, config)
    optimizer = torch.optim.Adam(peer.parameters(), lr=config.optim.lr)
    loss, batch = config.loss, data.loader(config).batch(0)
    negatives = sample_negatives(loss.num_negatives, data.num_items, seed=config.train.seed, step=0)
    mine = step(0, batch.history, batch.length, batch.target).total
    theirs = peer(
        batch.history.long(),
        batch.length,
        batch.target.long(),
        negatives,
        loss.beta,
        loss.rr_lambda,
    )
    theirs.backward()
    optimizer.step()
    difference = (model.rows(0, data.num_items) - peer.items.weight).abs().max().item()
    found = {"loss": mine, "loss_of_peer": theirs.item(), "largest_weight_difference": difference}
    if abs(mine - theirs.item()) > 1e-4 * abs(mine) or difference > 1e-2 * config.optim.lr:
        raise SystemExit(f"the contestants do not compute the same: {found}")
    return found


def main() -> None:
    """Check, warm up, take turns, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=368_000, help="rows of the item table")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    set_threads(0)
    data, config = Data(arguments.items, arguments.users), Config()
    checked = check(data, config)
    print("checked on one batch:", checked)
    runs = contestants(data, config)
    first = next(iter(runs))
    table = compared(take_turns(runs, arguments.rounds, ROUND_SECONDS), first)
    show(table, first)
    if arguments.save:
        print(results.save(arguments.save, {"options": vars(arguments), "check": checked} | table))


if __name__ == "__main__":
    main()
