"""Launches beside others: the calls that streams get, as there is no GPU to see them run."""

from contextlib import contextmanager

import torch

from remi_fast.kernels import side_stream as module
from remi_fast.kernels.side_stream import SideStream, side_stream


class Stream:
    """Writes down what it is told, in the order of all."""

    def __init__(self, name, told):
        self.name, self.told, self.device = name, told, torch.device("cuda", 0)

    def wait_stream(self, other):
        self.told.append(f"{self.name} waits for {other.name}")

    def record_event(self):
        self.told.append(f"{self.name} is marked")
        return f"mark of {self.name}"

    def wait_event(self, event):
        self.told.append(f"{self.name} waits for the {event}")


def test_a_block_begins_after_what_was_before_and_is_waited_for(monkeypatch):
    told = []
    main, side = Stream("main", told), Stream("side", told)

    @contextmanager
    def within(stream):
        told.append(f"into {stream.name}")
        yield
        told.append(f"out of {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", within)
    beside = SideStream(torch.device("cuda", 0))
    with beside.launches():
        told.append("launch")
        ready = beside.mark()
        told.append("launch more")
    told.append("launch beside")
    ready()
    assert told == [
        "side waits for main",
        "into side",
        "launch",
        "side is marked",
        "launch more",
        "out of side",
        "launch beside",
        "main waits for the mark of side",
    ]


def test_a_cpu_has_no_streams(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", None)
    module.side_stream.cache_clear()
    beside = side_stream(torch.device("cpu"))
    assert beside is side_stream(torch.device("cpu"))
    with beside.launches():
        ready = beside.mark()
    assert ready() is None
