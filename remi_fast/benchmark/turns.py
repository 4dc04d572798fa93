"""Contestants take turns, a moment each, so that what else the machine does hits all alike.

The names of ours begin with `OURS`. The others are peers: one that cannot run, or computes
something else, is left out, and the result says why.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from remi_fast.errors import BenchmarkError, RemiFastError

Run = Callable[[], object]
Made = TypeVar("Made")
OURS = "remi-fast"
REMI, PLAIN = f"{OURS}, REMI", f"{OURS}, plain sampled softmax"


@dataclass(frozen=True)
class Contestant:
    """What takes a turn: a call of `run` makes `steps`; and what is known of it besides time."""

    run: Run
    steps: int = 1
    notes: dict[str, Any] = field(default_factory=dict)


def make_all(
    makers: Mapping[str, Callable[[], Made]],
) -> tuple[dict[str, Made], dict[str, str]]:
    """By name what each maker makes, and of each peer that cannot, why; ours have to."""
    made: dict[str, Made] = {}
    cannot: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as reason:  # somebody else's library: whatever it raises is its answer
            if name.startswith(OURS):
                raise
            cannot[name] = because(reason)
    return made, cannot


def because(reason: Exception) -> str:
    """An error in one line."""
    if isinstance(reason, ModuleNotFoundError):
        return f"{reason.name} is not installed"
    if isinstance(reason, RemiFastError):
        return str(reason)
    return f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}"


def check_error(error: float, most: float, what: str) -> float:
    """The error, if it is small enough; else BenchmarkError, which says what of."""
    if not error <= most:  # NaN is not
        raise BenchmarkError(f"{what}: got an error of {error:.1e}, expected at most {most:.0e}")
    return float(f"{error:.2e}")


def captured(run: Run, device: torch.device) -> tuple[Run, bool]:
    """The run as a CUDA graph, and whether it is one: what waits for the host cannot be.

    A capture that fails would spoil those after it, so none is begun that will: torch raises in the
    second of two runs before it where the host waits.
    """
    if device.type == "cpu" or not _goes_by_itself(run):
        return run, False
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return partial(_replay, graph, run), True


def _replay(graph: torch.cuda.CUDAGraph, run: Run) -> None:
    """run: what the graph was made of: that lives as long, and so does what both read."""
    graph.replay()


def _goes_by_itself(run: Run) -> bool:
    """Whether it never waits for the host, once all is compiled."""
    stream, before = torch.cuda.Stream(), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        except RuntimeError:
            return False
        finally:
            torch.cuda.set_sync_debug_mode(before)
            torch.cuda.synchronize()
    return True


def take_turns(runs: Mapping[str, Run], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds a call of each contestant, one number a round; one more round warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            taken = measure(run, seconds)
            if round_number > 0:
                times[name].append(taken)
    return times


def measure(run: Run, seconds: float) -> float:
    """Milliseconds a call, over at least 2 calls and `seconds`; on a GPU by its own events."""
    if torch.cuda.is_available():
        return _measure_by_events(run, seconds)
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < seconds:
        run()
        calls += 1
    return 1e3 * (time.perf_counter() - start) / calls


def _measure_by_events(run: Run, seconds: float) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    calls = max(2, min(1000, int(seconds / (time.perf_counter() - start))))
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / calls


def compared(times: Mapping[str, list[float]], first: str) -> dict[str, Any]:
    """Of each contestant the median, and its ratio to `first`: median and range over rounds."""
    table = {}
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, times[first], strict=True)]
        table[name] = {
            "ms": _digits(statistics.median(values)),
            "ratio": _digits(statistics.median(ratios)),
            "ratio_range": [_digits(min(ratios)), _digits(max(ratios))],
            "rounds": [_digits(value) for value in values],
        }
    return table


def times(ratio: float) -> str:
    """A ratio of times, for people."""
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"


def _digits(number: float) -> float:
    """Of milliseconds and of microseconds as many digits as a clock is worth."""
    return float(f"{number:.5g}")
