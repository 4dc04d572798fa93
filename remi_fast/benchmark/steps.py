"""Whole training steps, side by side in one run: remi-fast, the published recipe, that repaired.

Contestants take turns, a few steps at a time, so that what else the machine does hits all alike.
First the losses and the tables after one step are compared on the same batch.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch

from remi_fast.benchmark import resources
from remi_fast.benchmark.generated import sequences, spans
from remi_fast.benchmark.peers import EagerModel, RepairedModel, python_iterator
from remi_fast.benchmark.published import NEGATIVES
from remi_fast.benchmark.turns import (
    PLAIN,
    REMI,
    Contestant,
    because,
    captured,
    compared,
    make_all,
    take_turns,
)
from remi_fast.config import Config, LossConfig, TrainConfig
from remi_fast.data.loader import BatchLoader
from remi_fast.data.uploaded_batches import UploadedBatches
from remi_fast.errors import BenchmarkError
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.models.recommender import make_model
from remi_fast.training.engines import Engine, make_engine
from remi_fast.training.placement import training_device
from remi_fast.training.precision import arithmetic
from remi_fast.training.step import TrainingStep

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
MEAN_LENGTH = 15  # interactions of a generated user
LARGEST_PUBLISHED = 1024  # batch: beyond it the Python iterator takes seconds, or tens of them
STEPS_A_CALL = {"cpu": 1, "cuda": 100}  # of remi-fast: as many as `train` makes between log lines
STEPS_A_GRAPH = 20  # of the repaired recipe, as of remi-fast
MOST_APART = 2e-2  # of the moves of one step, in norm: a few elements may move otherwise


class Data:
    """The generated interactions, as our loader and as the published iterator want them."""

    def __init__(self, num_items: int, num_users: int) -> None:
        self.items, self.offsets = sequences(num_users, num_items, MEAN_LENGTH)
        self.train_users, self.train_spans = spans(self.offsets)
        self.num_items = num_items
        self.histories = [part.tolist() for part in self._split()]

    def _split(self) -> Iterator[Any]:
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.items[start:end]

    def loader(self, config: Config) -> BatchLoader:
        """Our batches."""
        return BatchLoader(
            self.items,
            self.train_users,
            self.train_spans,
            batch_size=config.train.batch_size,
            max_history=config.model.max_history,
            seed=config.train.seed,
            threads=1,
        )


def engine(data: Data, config: Config) -> tuple[TrainingStep, Engine]:
    """remi-fast as `remi-fast train` runs it, and what its steps are made of."""
    model = make_model(config.model, data.num_items, seed=1).to(training_device(config))
    step = TrainingStep(model, config)
    return step, make_engine(step, data, 0)  # type: ignore[arg-type]  # of a dataset the arrays


def ours(data: Data, config: Config) -> Contestant:
    """remi-fast."""
    _, steps = engine(data, config)
    count = STEPS_A_CALL[training_device(config).type]
    return Contestant(lambda: steps.advance(count), count)


def eager(
    data: Data, config: Config, batches: Iterator[Batch], *, repaired: bool, compiled: str = ""
) -> Contestant:
    """Plain autograd and dense Adam over the whole table; compiled: torch.compile's mode."""
    kind = RepairedModel if repaired else EagerModel
    model = _model(kind, data.num_items, config)
    forward = torch.compile(model, mode=compiled) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optim.lr, fused=repaired or None)

    def run() -> None:
        value = _eager_step(forward, optimizer, next(batches), data.num_items, config)
        if not repaired:  # as published: the host looks at every loss
            value.item()

    return Contestant(run)


def _model(kind: type[EagerModel], num_items: int, config: Config) -> EagerModel:
    sizes = config.model
    model = kind(num_items, sizes.dim, sizes.num_interests, sizes.max_history)
    return model.to(training_device(config))


def _eager_step(
    forward: Callable[..., torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    num_items: int,
    config: Config,
) -> torch.Tensor:
    """The loss of a step; nothing waits for a GPU."""
    device, loss = training_device(config), config.loss
    history, length, target = (x.to(device, non_blocking=True) for x in batch)
    negatives = torch.randint(1, num_items, (loss.num_negatives,), device=device)
    optimizer.zero_grad()
    with arithmetic(config.train.precision, device):
        value = forward(history, length, target, negatives, loss.beta, loss.rr_lambda)
        value.backward()
    optimizer.step()
    return value.detach()


def whole_graph(data: Data, config: Config) -> Contestant:
    """The repaired recipe as a CUDA graph of several whole steps; before each call the host copies
    the batches of our loader to where the graph reads them."""
    device = training_device(config)
    model = _model(RepairedModel, data.num_items, config)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.optim.lr, fused=True, capturable=device.type == "cuda"
    )
    batches = UploadedBatches(data.loader(config), device)
    slots = batches.slots(STEPS_A_GRAPH)
    batches.fill(0, len(slots))

    def launch() -> None:
        for slot in slots:
            batch = slot.history, slot.length, slot.target
            _eager_step(model, optimizer, batch, data.num_items, config)

    replay, is_graph = captured(launch, device)
    if not is_graph:
        raise BenchmarkError("its steps cannot be captured")
    firsts = count(len(slots), len(slots))

    def run() -> None:
        batches.fill(next(firsts), len(slots))
        replay()

    return Contestant(run, len(slots))


def tensors(loader: BatchLoader) -> Iterator[Batch]:
    """Our loader's batches for the eager model."""
    for batch in loader:
        yield batch.history.long(), batch.length, batch.target.long()


def uploaded(loader: BatchLoader, device: torch.device) -> Iterator[Batch]:
    """The same on a GPU, each by one copy from pinned memory to where the one before it was."""
    batches = UploadedBatches(loader, device)
    (slot,) = batches.slots(1)
    for step in count():
        batches.fill(step, 1)
        yield slot.history, slot.length, slot.target


def settings(batch_size: int, precision: str = "fp32") -> Config:
    """The published settings, but for these."""
    return Config(
        loss=LossConfig(num_negatives=NEGATIVES * batch_size),
        train=TrainConfig(batch_size=batch_size, precision=precision),  # type: ignore[arg-type]
    )


def contestants(data: Data, config: Config, peers: str) -> dict[str, Callable[[], Contestant]]:
    """By name, what makes it; the first is what the others are compared with.

    peers: "none", "eager" (the published recipe, and that repaired) or "all" (also compiled).
    """
    parts = {
        REMI: config.loss,
        "remi-fast, IHN only": replace(config.loss, rr_lambda=0.0),
        "remi-fast, RR only": replace(config.loss, beta=0.0),
        PLAIN: replace(config.loss, beta=0.0, rr_lambda=0.0),
    }
    made: dict[str, Callable[[], Contestant]] = {
        name: lambda loss=loss: ours(data, replace(config, loss=loss))  # type: ignore[misc]
        for name, loss in parts.items()
    }
    if peers == "none":
        return made
    size, width = config.train.batch_size, config.model.max_history
    device = training_device(config)

    def published(matrices: bool) -> Contestant:
        batches = python_iterator(data.histories, size, width, matrices=matrices)
        return eager(data, config, batches, repaired=False)

    def repaired(compiled: str = "") -> Contestant:
        loader = data.loader(config)
        batches = tensors(loader) if device.type == "cpu" else uploaded(loader, device)
        return eager(data, config, batches, repaired=True, compiled=compiled)

    if size <= LARGEST_PUBLISHED:
        made["published, L x L matrices"] = lambda: published(True)
        made["published, without them"] = lambda: published(False)
    made["repaired: our loader, fused Adam"] = repaired
    if device.type == "cuda":
        made["repaired recipe as one CUDA graph"] = lambda: whole_graph(data, config)
    if peers == "all":
        made["repaired and torch.compile"] = lambda: repaired("default")
        if device.type == "cuda":
            made["repaired, compiled to CUDA graphs"] = lambda: repaired("reduce-overhead")
    return made


def compare(
    data: Data, config: Config, *, peers: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """One case: what was checked, each contestant's times, and REMI by plain sampled softmax.

    seconds: of each contestant's turn in each of the rounds. `check_memory` says what does not fit.
    """
    device, batch_size = training_device(config), config.train.batch_size
    checked = check(data, replace(config, train=replace(config.train, precision="fp32")))
    makers = contestants(data, config, peers).items()
    made, cannot = make_all({n: partial(resources.peak_memory, make, device) for n, make in makers})
    runs = {name: contestant for name, (contestant, _) in made.items()}
    times = take_turns({name: each.run for name, each in runs.items()}, rounds, seconds)
    by_step = {name: [ms / runs[name].steps for ms in values] for name, values in times.items()}
    table = compared(by_step, REMI)
    traffic = rows_traffic(data, config, device)
    for name, row in table.items():
        row["samples_per_s"] = round(1e3 * batch_size / row["ms"])
        row["traffic_by_time"] = round(traffic["ms"] / row["ms"], 4)
        if device.type == "cuda":
            row |= made[name][1] | profiled(runs[name])
    pairs = zip(table[REMI]["rounds"], table[PLAIN]["rounds"], strict=True)
    ratios = [remi / plain for remi, plain in pairs]
    cost = {"ratio": round(statistics.median(ratios), 3)}
    cost |= {"lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)}
    head = {
        "part": "step",
        "batch_size": batch_size,
        "items": data.num_items,
        "device": device.type,
    }
    head |= {"precision": config.train.precision, "negatives": config.loss.num_negatives}
    head |= {"checked": checked, "traffic": traffic, "cannot": cannot}
    return head | {"remi_by_plain": cost, "contestants": table}


def profiled(contestant: Contestant) -> dict[str, Any]:
    """What it launches a step, or why no profiler says it: its time is known by then."""
    try:
        return resources.launched(contestant.run, contestant.steps)
    except RuntimeError as reason:
        return {"not_profiled": because(reason)}


def rows_traffic(data: Data, config: Config, device: torch.device) -> dict[str, float]:
    """Of a step's rows: bytes, those a second of a large copy on the device, and milliseconds.

    No least time: rows that were used a moment ago may still be in a cache. Places and distinct
    rows are means over a few batches.
    """
    loss, loader, batches = config.loss, data.loader(config), 4
    places = distinct = 0
    for number in range(batches):
        batch = loader.batch(number)
        negatives = sample_negatives(
            loss.num_negatives, data.num_items, seed=config.train.seed, step=number
        )
        ids = torch.cat([batch.history.flatten(), batch.target, negatives])
        ids = ids[ids > 0]  # the rest is padding
        places, distinct = places + len(ids), distinct + len(ids.unique())
    moved = resources.table_traffic(places / batches, distinct / batches, config.model.dim)
    rate = resources.copy_bandwidth(device)
    return {"bytes": moved, "bytes_per_s": round(rate), "ms": 1e3 * moved / rate}


def check_memory(items: int, peers: str) -> None:
    """Raise ConfigError where the tables of all contestants, who are there at once, do not fit."""
    device = training_device(Config())
    # weights, moments and gradients; on a GPU also as a graph, and torch.compile twice
    on_gpu = device.type == "cuda"
    dense = {"none": 0, "eager": 3 + on_gpu, "all": 4 + 2 * on_gpu}[peers]
    need = 4 * items * Config().model.dim * (4 * 3 + 4 * dense)
    what = f"--num-items {items:,} with --peers {peers}: all tables together"
    resources.check_memory(need, device, what)


def check(data: Data, config: Config) -> dict[str, float]:
    """Loss, and weights after one step, of remi-fast and the eager model on the same batch."""
    training_step, steps = engine(data, config)
    model, device = training_step.model, training_device(config)
    peer = _model(EagerModel, data.num_items, config)
    with torch.no_grad():
        peer.items.weight.copy_(model.table.weight)
        for name in ("positions", "w1", "w2"):
            getattr(peer, name).copy_(getattr(model.extractor, name))
    before = peer.items.weight.detach().clone()
    optimizer = torch.optim.Adam(peer.parameters(), lr=config.optim.lr)
    loss, batch = config.loss, data.loader(config).batch(0)
    negatives = sample_negatives(loss.num_negatives, data.num_items, seed=config.train.seed, step=0)
    mine = steps.advance(1)[0].total
    theirs = peer(
        batch.history.long().to(device),
        batch.length.to(device),
        batch.target.long().to(device),
        negatives.to(device),
        loss.beta,
        loss.rr_lambda,
    )
    theirs.backward()
    optimizer.step()
    after = peer.items.weight.detach()
    # In norm: the first step of Adam moves an element by the sign of its gradient, however small.
    difference, moved = (model.rows(0, data.num_items) - after).norm(), (after - before).norm()
    apart = (difference / moved).item()  # NaN or infinite where nothing moved
    found = {"loss": mine, "loss_of_peer": theirs.item(), "difference_by_moves": apart}
    if not (abs(mine - theirs.item()) <= 1e-4 * abs(mine) and apart <= MOST_APART):
        raise BenchmarkError(f"the contestants do not compute the same: {found}")
    return found
