"""What is taken besides time: memory, kernels, bytes of rows that move."""

import ctypes
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remi_fast.benchmark.turns import Run, measure
from remi_fast.errors import ConfigError
from remi_fast.training.placement import available_memory

COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}  # bytes: several times the caches
SHOWN = 12  # kernels that take longest


def check_memory(need: int, device: torch.device, what: str) -> None:
    """Raise ConfigError where `need` bytes, for `what`, are more than there are."""
    there = available_memory(device)
    if need > there:
        where = "that are free on the GPU" if device.type == "cuda" else "there are"
        raise ConfigError(
            f"{what} need {need / 2**30:,.1f} GiB, "
            f"expected at most the {there / 2**30:,.1f} GiB {where}"
        )


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, those read and those written, of a large copy: the median of five."""
    source = torch.ones(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [1e-3 * measure(lambda: target.copy_(source), 0.05) for _ in range(5)]
    return 2 * len(source) / statistics.median(seconds)


def table_traffic(places: float, distinct: float, dim: int) -> float:
    """Bytes that a step moves for its rows of the item table, with Adam's moments, if no cache has
    anything of the steps before.

    The gather reads each of the `distinct` rows once; backward writes a gradient of each of the
    `places` where a row is used, and the update reads it; the update reads and writes weight, both
    moments (float32) and the step of the last touch of each row.
    """
    row = 4 * dim
    return distinct * (row + 6 * row + 8) + places * 2 * row


def peak_memory(make: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, int]]:
    """What `make` makes, run twice, and the GPU memory in bytes that this needed.

    "peak_bytes" are of tensors; "reserved_bytes" are what the allocator took from the device, also
    for the pools of CUDA graphs. Nothing on a CPU, whose allocator does not say.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what is reserved now is in use
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    made = make()
    for _ in range(2):
        made.run()
    if not on_gpu:
        return made, {}
    torch.cuda.synchronize()
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    names = "peak_bytes", "reserved_bytes"
    return made, {n: p - b for n, p, b in zip(names, peaks, before, strict=True)}


def call_memory(run: Callable[[], Iterable[Tensor]], device: torch.device) -> int | None:
    """Bytes that one call needs at its peak beyond what was there and what it returns.

    None on a CPU whose system does not say (/proc of Linux does).
    """
    kept = sum(x.nbytes for x in run())
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return max(0, torch.cuda.max_memory_allocated() - before - kept)
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls left behind goes back first
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    except OSError:
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before - kept)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found
    return int(found.group(1)) * 1024


def launched(run: Run, steps: int) -> dict[str, Any]:
    """What one call of `run`, which makes so many steps, launches on the GPU (see `counted`)."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return counted(profiler.events(), steps)


def counted(events: Iterable[Any], steps: int) -> dict[str, Any]:
    """Of a profiler's events, a step: kernels, copies and fills, and microseconds by name; nothing
    where it saw no kernel."""
    kernels, copies, taken = 0, 0, Counter[str]()
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CUDA or event.is_user_annotation:
            continue
        if event.name.startswith(("Memcpy", "Memset")):
            copies += 1
        else:
            kernels += 1
        taken[event.name] += event.time_range.elapsed_us()
    if not kernels:
        return {}
    return {
        "kernels": round(kernels / steps, 2),
        "copies": round(copies / steps, 2),
        "kernel_us": {name: round(us / steps, 3) for name, us in taken.most_common(SHOWN)},
    }
