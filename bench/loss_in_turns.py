"""The loss, forward and backward: contestants in turns, after each has been checked in float64.

    python -m bench.loss_in_turns --save loss_in_turns_cpu

On a GPU each contestant is a CUDA graph where it can be captured, timed by CUDA events. Peak memory
is what one call needs beyond its inputs and gradients.
"""

import argparse
import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench import floor, results
from bench.loss_contestants import (
    Contestant,
    LossInputs,
    Size,
    contestants,
    differentiate,
    make_inputs,
    truth,
)
from remi_fast.benchmark.turns import compared, take_turns
from remi_fast.kernels.native import C

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (dtype, torch's precision of float32 products): tf32x3 is as exact as float32.
PRECISIONS = {
    "float32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
    "bfloat16": (torch.bfloat16, "highest"),
}
# Largest relative error of loss and gradients: exponents of scores of standard deviation 2.
TOLERANCE = {"float32": 1e-4, "tf32": 3e-2, "bfloat16": 1e-1}
REMI, PLAIN = "remi-fast", "remi-fast, plain"


def set_threads() -> None:
    """All cores, for PyTorch and the C++ code."""
    C.set_num_threads(0)
    torch.set_num_threads(C.num_threads())


def make_run(contestant: Contestant, inputs: LossInputs) -> Callable[[], list[torch.Tensor]]:
    """Loss and gradients of one call."""

    def run() -> list[torch.Tensor]:
        loss = contestant(inputs)
        return [loss.detach(), *differentiate(loss, inputs)]

    return run


def captured(run: Callable[[], object]) -> tuple[Callable[[], object], bool]:
    """The run as a CUDA graph, and whether it is one: what waits for the host cannot be."""
    if DEVICE == "cpu":
        return run, False
    try:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return run, False
    return graph.replay, True


def error(got: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Largest error of loss and gradients, each relative to its largest entry."""
    return max(
        ((mine.double() - true).abs().max() / true.abs().max().clamp_min(1e-30)).item()
        for mine, true in zip(got, exact, strict=True)
        if true.abs().max() > 0
    )


def peak_memory(run: Callable[[], list[torch.Tensor]]) -> int:
    """Bytes one call needs at its peak beyond its inputs and gradients."""
    kept = sum(x.nbytes for x in run())
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return max(0, torch.cuda.max_memory_allocated() - before - kept)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls left behind goes back first
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before - kept)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found
    return int(found.group(1)) * 1024


def compare(size: Size, precision: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Check, then time all contestants of one size and precision."""
    dtype, torch_precision = PRECISIONS[precision]
    torch.set_float32_matmul_precision(torch_precision)
    inputs = make_inputs(size, DEVICE, dtype)
    notes: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], object]] = {}
    for name, contestant in contestants(size, DEVICE).items():
        run = make_run(contestant, inputs)
        try:
            found = error(run(), truth(name, inputs))
        except Exception as reason:  # somebody else's library: whatever it raises is its answer
            if name.startswith("remi-fast"):
                raise
            notes[name] = {"cannot": f"{type(reason).__name__}: {str(reason)[:200]}"}
            continue
        if found > TOLERANCE[precision]:
            raise SystemExit(f"{name}, {size}, {precision}: relative error {found:.1e}")
        notes[name] = {"relative_error": float(f"{found:.2e}"), "peak_bytes": peak_memory(run)}
        runs[name], notes[name]["captured"] = captured(run)
    table = _in_turns(runs, rounds, seconds)
    for name, row in table.items():
        if DEVICE == "cuda" and name in (REMI, PLAIN):
            row["share_of_floor"] = round(
                1e-3 * floor.loss_us(size, precision, name) / row["ms"], 3
            )
        row.update(notes.pop(name))
    return table | notes


def _in_turns(runs: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, Any]:
    """On a CPU what torch.compile made has a turn of its own beside remi-fast: it brings an OpenMP
    of its own, and two of them slow PyTorch down several times."""
    compiled = {n for n in runs if "compiled" in n or "cut-cross-entropy" in n}
    if DEVICE == "cuda":
        compiled = set()
    groups = [
        [n for n in runs if n not in compiled],
        [n for n in runs if n in compiled or n == REMI],
    ]
    table: dict[str, Any] = {}
    for group in groups:
        if len(group) > 1:
            times = take_turns({n: runs[n] for n in group}, rounds, seconds)
            table = compared(times, REMI) | table
    return {name: table[name] for name in runs}


def sizes(catalogue: bool) -> list[Size]:
    """What is compared by default, on this device."""
    if catalogue:
        on_cpu, on_gpu = [(128, 100_000)], [(128, 100_000), (1024, 100_000), (1024, 1_000_000)]
    else:
        on_cpu, on_gpu = (
            [(128, 1280), (1024, 10_240)],
            [(128, 1280), (1024, 10_240), (8192, 81_920)],
        )
    chosen = on_gpu if DEVICE == "cuda" else on_cpu
    return [Size(batch, negatives, catalogue=catalogue) for batch, negatives in chosen]


def main() -> None:
    """Compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", metavar="BxN", help="default: those of the README")
    parser.add_argument("--catalogue", action="store_true", help="N is the whole catalogue")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=None)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="a turn")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    set_threads()
    chosen = sizes(arguments.catalogue)
    if arguments.sizes:
        pairs = (map(int, text.split("x")) for text in arguments.sizes)
        chosen = [Size(b, n, catalogue=arguments.catalogue) for b, n in pairs]
    precisions = arguments.precisions or (PRECISIONS if DEVICE == "cuda" else ["float32"])
    found: dict[str, Any] = {"options": vars(arguments)}
    for size in chosen:
        size = Size(**(vars(size) | {"beta": arguments.beta}))
        for precision in precisions:
            table = compare(size, precision, arguments.rounds, arguments.seconds)
            print(f"\n{size}, {precision}, beta {size.beta:g}")
            results.show({n: row for n, row in table.items() if "ms" in row}, REMI)
            for name, row in table.items():
                print(f"  {name}: {row.get('cannot') or _notes(row)}")
            found[f"{size} {precision}"] = table
            if arguments.save:  # after each: a run cut short leaves what it had
                path = results.save(arguments.save, found)
    if arguments.save:
        print(path)


def _notes(row: dict[str, Any]) -> str:
    text = f"error {row['relative_error']:.1e}, peak {row['peak_bytes'] / 2**20:.1f} MiB"
    if "share_of_floor" in row:
        text += f", {row['share_of_floor']:.0%} of the floor"
    return text + (", captured" if row["captured"] else "")


if __name__ == "__main__":
    main()
