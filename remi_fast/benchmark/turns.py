"""Contestants take turns, a moment each, so that what else the machine does hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Run = Callable[[], object]


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
            "ms": round(statistics.median(values), 4),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "rounds": [round(value, 4) for value in values],
        }
    return table
