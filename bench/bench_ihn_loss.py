"""The loss, forward and backward, beside its peers; correctness first.

On a GPU a round is many replays of one CUDA graph, and `extra_info` has the time by CUDA events.
"""

import pytest
import torch

from bench.loss_contestants import contestants, make_inputs, truth
from bench.loss_in_turns import (
    DEVICE,
    PRECISIONS,
    TOLERANCE,
    captured,
    error,
    make_run,
    peak_memory,
    set_threads,
    sizes,
)
from remi_fast.benchmark.turns import measure

SIZES = {str(size): size for size in (*sizes(catalogue=False), *sizes(catalogue=True))}
NAMES = {size: contestants(SIZES[size], DEVICE) for size in SIZES}
CASES = [
    pytest.param(size, name, precision, id=f"{size}-{precision}-{name}")
    for size in SIZES
    for precision in (PRECISIONS if DEVICE == "cuda" else ["float32"])
    for name in NAMES[size]
]
REPLAYS = 100 if DEVICE == "cuda" else 1


@pytest.mark.parametrize("size, name, precision", CASES)
def test_ihn_loss(benchmark, size, name, precision):
    benchmark.group = f"ihn-loss-{size}-{precision}"
    set_threads()
    dtype, torch_precision = PRECISIONS[precision]
    torch.set_float32_matmul_precision(torch_precision)
    inputs = make_inputs(SIZES[size], DEVICE, dtype)
    run = make_run(NAMES[size][name], inputs)
    try:
        found = run()
    except Exception as reason:
        if name.startswith("remi-fast"):
            raise
        pytest.skip(f"{name} cannot: {reason}")
    assert error(found, truth(name, inputs)) <= TOLERANCE[precision]
    benchmark.extra_info["peak_bytes"] = peak_memory(run)
    replay, is_graph = captured(run)
    if DEVICE == "cuda":
        benchmark.extra_info |= {"cuda_graph": is_graph, "events_ms": measure(replay, 0.3)}

    def repeat():
        for _ in range(REPLAYS):
            replay()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(repeat, rounds=9, iterations=1, warmup_rounds=1)
