"""Training batches a second: the C++ loader, torch's DataLoader over NumPy, the published iterator;
with a GPU the batches drawn there, too.

First every sample of a batch of each has to be a place in the sequence of some user, and what a GPU
draws has to be the loader's, bit for bit.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from remi_fast.benchmark import resources
from remi_fast.benchmark.peers import python_iterator
from remi_fast.benchmark.published import HISTORY, MIN_HISTORY
from remi_fast.benchmark.steps import LARGEST_PUBLISHED, MEAN_LENGTH, Data
from remi_fast.benchmark.turns import Contestant, captured, compared, make_all, take_turns
from remi_fast.data.device_loader import DeviceBatchLoader
from remi_fast.data.loader import BatchLoader, Sampling
from remi_fast.errors import BenchmarkError

BATCHES_A_CALL = {"ours": 200, "numpy": 10, "published": 1}
BYTES = 150  # of memory an interaction, while the data are generated and as Python lists
WORKERS = 2  # at most, of torch's DataLoader
CHECKED = (300, 50, 32)  # items, users, batch size


class NumpyBatches(IterableDataset[Any]):
    """Uniform users and positions, a whole batch at a time, the best NumPy can do."""

    def __init__(self, data: Data, batch_size: int) -> None:
        self.items, self.offsets, self.batch_size = data.items, data.offsets, batch_size

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        generator = np.random.default_rng(torch.initial_seed() % 2**32)
        start, length = self.offsets[:-1], np.diff(self.offsets)
        column = np.arange(HISTORY)
        while True:
            user = generator.integers(len(length), size=self.batch_size)
            place = generator.integers(MIN_HISTORY, length[user])
            taken = np.minimum(place, HISTORY)
            first = (start[user] + place - taken)[:, None]
            inside = column < taken[:, None]
            history = np.where(inside, self.items[np.where(inside, first + column, 0)], 0)
            yield history, taken, self.items[start[user] + place]


@dataclass(frozen=True)
class Source:
    """Where batches come from: what starts it, and how many are taken in a call."""

    batches: Callable[[Data, int], Iterator[Any]]
    a_call: int


def compare(
    data: Data, batch_size: int, device: torch.device, *, peers: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """One case: each contestant checked, then all in turns, `seconds` each in each round."""
    makers = contestants(data, batch_size, device, peers)
    made, cannot = make_all(makers)
    times = take_turns({name: each.run for name, each in made.items()}, rounds, seconds)
    by_batch = {name: [ms / made[name].steps for ms in values] for name, values in times.items()}
    table = compared(by_batch, next(iter(makers)))
    for row in table.values():
        row["samples_per_s"] = round(1e3 * batch_size / row["ms"])
    head = {"part": "loader", "batch_size": batch_size, "items": data.num_items}
    head |= {"users": len(data.train_users), "interactions": len(data.items)}
    return head | {"device": device.type, "cannot": cannot, "contestants": table}


def check_memory(users: int) -> None:
    """Raise ConfigError where the interactions of so many users do not fit."""
    need = BYTES * MEAN_LENGTH * users
    resources.check_memory(need, torch.device("cpu"), f"--users {users:,}: the interactions")


def contestants(
    data: Data, batch_size: int, device: torch.device, peers: str
) -> dict[str, Callable[[], Contestant]]:
    """By name, what checks and makes it; the first is what the others are compared with."""
    found: dict[str, Callable[[], Contestant]] = {}
    if device.type == "cuda":
        for sampling in get_args(Sampling):
            name = f"remi-fast, drawn on the GPU, {sampling}"
            found[name] = partial(drawn, data, batch_size, device, sampling)
    for name, source in sources(peers, batch_size).items():
        found[name] = partial(_checked, name, source, data, batch_size)
    return found


def sources(peers: str, batch_size: int) -> dict[str, Source]:
    """By name, those on the host; peers: "none" or "all" (as far as a batch is no matter of
    seconds)."""
    all_threads, ours = torch.get_num_threads(), BATCHES_A_CALL["ours"]
    found = {
        "remi-fast, C++ loader, uniform": Source(partial(_cpp, "uniform", all_threads), ours),
        "remi-fast, C++ loader, epoch": Source(partial(_cpp, "epoch", all_threads), ours),
        "remi-fast, C++ loader, one thread": Source(partial(_cpp, "uniform", 1), ours),
    }
    if peers == "none":
        return found
    numpy, published = BATCHES_A_CALL["numpy"], BATCHES_A_CALL["published"]
    found["torch DataLoader over NumPy"] = Source(partial(_numpy, 0), numpy)
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    found[f"the same, workers: {workers}"] = Source(partial(_numpy, workers), numpy)
    if batch_size <= LARGEST_PUBLISHED:
        found["published, without L x L"] = Source(partial(_published, False), published)
        found["published, L x L matrices"] = Source(partial(_published, True), published)
    return found


def _cpp(sampling: Sampling, threads: int, data: Data, batch_size: int) -> Iterator[Any]:
    options = _options(batch_size, sampling)
    with BatchLoader(*arrays(data), threads=threads, ring=16, **options) as loader:
        for batch in loader:
            yield batch[1:]


def _numpy(workers: int, data: Data, batch_size: int) -> Iterator[Any]:
    batches = NumpyBatches(data, batch_size)
    with warnings.catch_warnings():  # of more workers than there are cores for
        warnings.filterwarnings("ignore", "This DataLoader will create")
        return iter(DataLoader(batches, batch_size=None, num_workers=workers))


def _published(matrices: bool, data: Data, batch_size: int) -> Iterator[Any]:
    return python_iterator(data.histories, batch_size, HISTORY, matrices=matrices)


def arrays(data: Data) -> tuple[Any, Any, Any]:
    """The interactions as our loaders take them."""
    return data.items, data.train_users, data.train_spans


def _options(batch_size: int, sampling: Sampling) -> dict[str, Any]:
    """What both of our loaders are made with."""
    options = {"batch_size": batch_size, "max_history": HISTORY, "min_history": MIN_HISTORY}
    return options | {"seed": 1, "sampling": sampling}


def _checked(name: str, source: Source, data: Data, batch_size: int) -> Contestant:
    """The source on the data, after one batch of few users has been looked at."""
    items, users, size = CHECKED
    few = Data(items, users)
    check(next(source.batches(few, size)), few, name)
    batches = source.batches(data, batch_size)

    def take() -> None:
        for _ in range(source.a_call):
            next(batches)

    return Contestant(take, source.a_call)


def check(batch: Any, data: Data, name: str) -> None:
    """Raise BenchmarkError unless every sample is a target of some user, with the last items before
    it, oldest first, padded with 0 behind."""
    places = {
        (*items[max(0, place - HISTORY) : place], items[place])
        for items in data.histories
        for place in range(MIN_HISTORY, len(items))
    }
    history, length, target = (torch.as_tensor(x).tolist() for x in batch[:3])
    for row, count, wanted in zip(history, length, target, strict=True):
        if (*row[:count], wanted) not in places or any(row[count:]):
            raise BenchmarkError(
                f"{name}: got the history {row} of length {count} with the target {wanted}, "
                "expected a place in the sequence of a user"
            )


def drawn(data: Data, batch_size: int, device: torch.device, sampling: Sampling) -> Contestant:
    """Batches drawn on the device, many a call, one CUDA graph; the last one is compared with the
    C++ loader's."""
    options, count = _options(batch_size, sampling), BATCHES_A_CALL["ours"]
    loader = DeviceBatchLoader(*arrays(data), device=device, **options)
    step = torch.zeros(1, dtype=torch.int64, device=device)
    last: list[Tensor] = []

    def draw() -> None:
        for _ in range(count):
            last[:] = loader.draw(step)[1:]
            step.add_(1)

    run, is_graph = captured(draw, device)
    if device.type == "cuda" and not is_graph:
        raise BenchmarkError("the draws cannot be captured in a CUDA graph")
    step.zero_()
    run()
    with BatchLoader(*arrays(data), **options) as theirs:
        for mine, expected in zip(last, theirs.batch(count - 1)[1:], strict=True):
            if not torch.equal(mine.cpu(), expected):
                raise BenchmarkError(f"batch {count - 1}, {sampling}: other than the loader's")
    return Contestant(run, count)
