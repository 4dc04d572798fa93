"""What takes turns as a CUDA graph. Without a GPU: what is asked of CUDA, and in which order."""

import contextlib
import weakref

import pytest
import torch

from remi_fast.benchmark.turns import captured


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA that notes what it is asked for; a run that waits raises in its mode "error"."""
    told, mode = [], ["default"]

    class Stream:
        def wait_stream(self, other):
            told.append("wait")

    class Graph:
        def replay(self):
            told.append("replay")

    @contextlib.contextmanager
    def within(name):
        told.append(name)
        yield
        told.append(f"end of {name}")

    fakes = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: within("side stream"),
        "CUDAGraph": Graph,
        "graph": lambda _: within("capture"),
        "synchronize": lambda: told.append("synchronize"),
        "get_sync_debug_mode": lambda: mode[-1],
        "set_sync_debug_mode": mode.append,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return told, mode


def test_what_goes_by_itself_is_captured(cuda):
    told, mode = cuda
    run, is_graph = captured(lambda: told.append("run"), torch.device("cuda"))
    warm_up = ["wait", "side stream", "run", "run", "synchronize", "end of side stream"]
    assert told == [*warm_up, "capture", "run", "end of capture"]
    assert is_graph and mode == ["default", "error", "default"]
    run()
    assert told[-1] == "replay"


def test_what_a_graph_reads_lives_as_long_as_the_graph(cuda):
    """It keeps no tensor alive by itself."""
    tensor = torch.ones(1)
    alive = weakref.ref(tensor)
    replay, _ = captured(tensor.sum, torch.device("cuda"))
    del tensor
    assert alive() is not None
    del replay
    assert alive() is None


def test_of_what_waits_for_the_host_no_capture_is_begun(cuda):
    """One that fails would leave torch in a state in which no later one succeeds."""
    told, mode = cuda

    def waits():
        if mode[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        told.append("run")

    run, is_graph = captured(waits, torch.device("cuda"))
    assert not is_graph and run is waits
    assert "capture" not in told and told.count("run") == 1 and mode[-1] == "default"


def test_on_a_cpu_nothing_is_captured(cuda):
    told, _ = cuda
    run, is_graph = captured(lambda: told.append("run"), torch.device("cpu"))
    assert not is_graph and told == []
    run()
    assert told == ["run"]
