"""Whole training steps, side by side in one run: remi-fast, the published recipe, that repaired.

Contestants take turns, a few steps at a time, so that what else the machine does hits all alike.
First the losses and the tables after one step are compared on the same batch.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from remi_fast.benchmark.generated import sequences, spans
from remi_fast.benchmark.peers import EagerModel, python_iterator
from remi_fast.benchmark.turns import compared, take_turns
from remi_fast.config import Config, LossConfig, TrainConfig
from remi_fast.data.loader import BatchLoader
from remi_fast.errors import ConfigError
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.models.recommender import make_model
from remi_fast.training.step import TrainingStep

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
REMI, PLAIN = "remi-fast, REMI", "remi-fast, plain sampled softmax"
MEAN_LENGTH = 15  # interactions of a generated user


class Data:
    """The generated interactions, as our loader and as the published iterator want them."""

    def __init__(self, num_items: int, num_users: int) -> None:
        self.items, self.offsets = sequences(num_users, num_items, MEAN_LENGTH)
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


def contestants(data: Data, train: TrainConfig, peers: str) -> dict[str, Callable[[], None]]:
    """By name; the first is what the others are compared with.

    peers: "none", "eager" (the published recipe, and that repaired) or "all" (also compiled).
    """
    whole = LossConfig()
    parts = {
        REMI: whole,
        "remi-fast, IHN only": LossConfig(rr_lambda=0.0),
        "remi-fast, RR only": LossConfig(beta=0.0),
        PLAIN: LossConfig(beta=0.0, rr_lambda=0.0),
    }
    runs = {name: ours(data, Config(loss=loss, train=train)) for name, loss in parts.items()}
    if peers == "none":
        return runs
    config = Config(loss=whole, train=train)
    size, width = train.batch_size, config.model.max_history

    def published(matrices: bool) -> Iterator[Batch]:
        return python_iterator(data.histories, size, width, matrices=matrices)

    def repaired(compiled: bool) -> Callable[[], None]:
        return eager(data, config, tensors(data.loader(config)), fused=True, compiled=compiled)

    runs["published, L x L matrices"] = eager(data, config, published(True), fused=False)
    runs["published, without them"] = eager(data, config, published(False), fused=False)
    runs["repaired: our loader, fused Adam"] = repaired(compiled=False)
    if peers == "all":
        runs["repaired and torch.compile"] = repaired(compiled=True)
    return runs


def compare(
    data: Data, batch_size: int, *, peers: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """One case: what was checked, each contestant's times, and REMI by plain sampled softmax.

    seconds: of each contestant's turn in each of the rounds. `check_memory` says what does not fit.
    """
    train = TrainConfig(batch_size=batch_size)
    checked = check(data, Config(train=train))
    runs = contestants(data, train, peers)
    table = compared(take_turns(runs, rounds, seconds), REMI)
    for row in table.values():
        row["samples_per_s"] = round(1e3 * batch_size / row["ms"])
    pairs = zip(table[REMI]["rounds"], table[PLAIN]["rounds"], strict=True)
    ratios = [remi / plain for remi, plain in pairs]
    cost = {"ratio": round(statistics.median(ratios), 3)}
    cost |= {"lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)}
    head = {"batch_size": batch_size, "items": data.num_items, "checked": checked}
    return head | {"remi_by_plain": cost, "contestants": table}


def check_memory(items: int, peers: str) -> None:
    """Raise ConfigError where the tables of all contestants, who are there at once, do not fit."""
    ours_alone, dense = 4 * 3, {"none": 0, "eager": 3 * 4, "all": 4 * 4}[peers]
    need = 4 * items * Config().model.dim * (ours_alone + dense)  # weights, moments, gradients
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > there:
        raise ConfigError(
            f"--num-items {items:,} with --peers {peers}: all tables together need "
            f"{need / 2**30:,.1f} GiB, expected at most the {there / 2**30:,.1f} GiB there are"
        )


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
        raise RuntimeError(f"the contestants do not compute the same: {found}")
    return found
