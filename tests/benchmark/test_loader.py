"""`remi-fast bench loader`: batches are checked before they are timed."""

import itertools
import sys

import pytest
import torch

from remi_fast.benchmark import loader
from remi_fast.benchmark.loader import check, compare, drawn, sources
from remi_fast.benchmark.steps import Data
from remi_fast.errors import BenchmarkError, ConfigError

CPU = torch.device("cpu")
OURS = {f"remi-fast, C++ loader, {kind}" for kind in ("uniform", "epoch", "one thread")}
PUBLISHED = {"published, without L x L", "published, L x L matrices"}


@pytest.fixture(scope="module")
def data():
    return Data(200, 30)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(loader, "BATCHES_A_CALL", {"ours": 5, "numpy": 2, "published": 1})


def test_a_case_says_what_was_measured(data):
    case = compare(data, 8, CPU, peers="all", rounds=2, seconds=0.001)
    others = case["contestants"].keys() - OURS - PUBLISHED
    assert {name.partition(":")[0] for name in others} == {
        "torch DataLoader over NumPy",
        "the same, workers",
    }
    assert case["contestants"].keys() >= OURS | PUBLISHED and case["cannot"] == {}
    assert (case["batch_size"], case["users"], case["interactions"]) == (8, 30, len(data.items))
    for row in case["contestants"].values():
        assert row["samples_per_s"] == pytest.approx(1e3 * 8 / row["ms"], abs=0.51)


def test_who_takes_part():
    assert sources("none", 8).keys() == OURS
    assert sources("all", 1024).keys() >= PUBLISHED
    assert not PUBLISHED & sources("all", 2048).keys()  # seconds, or tens of them, a batch


def test_times_are_of_a_batch(data, monkeypatch):
    monkeypatch.setattr(loader, "take_turns", lambda runs, *_: {name: [10.0] for name in runs})
    table = compare(data, 8, CPU, peers="all", rounds=1, seconds=0)["contestants"]
    assert table["remi-fast, C++ loader, uniform"]["ms"] == 2
    assert table["torch DataLoader over NumPy"]["ms"] == 5
    assert table["published, L x L matrices"]["ms"] == 10


@pytest.mark.parametrize("name", sources("all", 8))
def test_every_batch_is_of_the_sequences(data, name):
    for _ in range(3):
        check(next(sources("all", 16)[name].batches(data, 16)), data, name)


@pytest.mark.parametrize("wrong", ["history", "order", "padding", "target", "length"])
def test_the_check_knows_a_wrong_batch(data, wrong):
    batch = next(sources("none", 8)["remi-fast, C++ loader, uniform"].batches(data, 8))
    history, length, target = (torch.as_tensor(x).clone() for x in batch[:3])
    check((history, length, target), data, "right")
    row, count = history[0], int(length[0])
    if wrong == "history":
        row[0] += 1
    elif wrong == "order":
        row[:count] = row[:count].flip(0)
    elif wrong == "padding":
        short = int(length.argmin())
        history[short, -1] = 7
    elif wrong == "target":
        target[0] += 1
    else:
        length[0] -= 1
    with pytest.raises(BenchmarkError, match="wrong: got the history .* with the target"):
        check((history, length, target), data, "wrong")


def test_a_peer_with_wrong_batches_is_not_timed(data, monkeypatch):
    monkeypatch.setattr(loader.NumpyBatches, "__iter__", lambda self: itertools.repeat(WRONG))
    case = compare(data, 8, CPU, peers="all", rounds=1, seconds=0.001)
    assert "torch DataLoader over NumPy" not in case["contestants"]
    reason = case["cannot"]["torch DataLoader over NumPy"]
    assert "with the target 3, expected a place in the sequence of a user" in reason


WRONG = [torch.tensor([[1, 1, 1, 1] + [0] * 16]), torch.tensor([4]), torch.tensor([3])]


@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_what_is_drawn_on_the_device_is_the_loaders(data, sampling, monkeypatch):
    contestant = drawn(data, 8, CPU, sampling)
    contestant.run()
    assert contestant.steps == 5
    whole = loader.DeviceBatchLoader.draw

    def other(self, step, *arguments):
        batch = whole(self, step, *arguments)
        batch.target.add_(1)
        return batch

    monkeypatch.setattr(loader.DeviceBatchLoader, "draw", other)
    with pytest.raises(BenchmarkError, match=f"batch 4, {sampling}: other than the loader's"):
        drawn(data, 8, CPU, sampling)


def test_what_does_not_fit_is_refused():
    loader.check_memory(100_000)
    with pytest.raises(ConfigError, match="--users .*: the interactions need .* GiB, expected"):
        loader.check_memory(sys.maxsize)
