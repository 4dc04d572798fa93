"""The loss, forward and backward, beside its peers; correctness first.

On a GPU a round is many replays of one CUDA graph, and `extra_info` has the time by CUDA events.
"""

import pytest
import torch

from remi_fast.benchmark.loss import PRECISIONS, checked
from remi_fast.benchmark.loss_contestants import Size, contestants, make_inputs
from remi_fast.benchmark.turns import OURS, measure
from remi_fast.cli.bench.common import device_for
from remi_fast.training.trainer import set_threads

DEVICE = device_for()
ON_GPU = DEVICE.type == "cuda"
SAMPLED, WHOLE = [(128, 1280), (1024, 10_240)], [(128, 100_000)]
if ON_GPU:
    SAMPLED, WHOLE = [*SAMPLED, (8192, 81_920)], [*WHOLE, (1024, 100_000), (1024, 1_000_000)]
SIZES = [Size(*pair) for pair in SAMPLED] + [Size(*pair, catalogue=True) for pair in WHOLE]
CASES = [
    pytest.param(size, name, contestant, precision, id=f"{size}-{precision}-{name}")
    for size in SIZES
    for precision in (PRECISIONS if ON_GPU else ["fp32"])
    for name, contestant in contestants(size, "all").items()
]
REPLAYS = 100 if ON_GPU else 1


@pytest.mark.parametrize("size, name, contestant, precision", CASES)
def test_ihn_loss(benchmark, size, name, contestant, precision):
    benchmark.group = f"ihn-loss-{size}-{precision}"
    set_threads(0)
    dtype, torch_precision = PRECISIONS[precision]
    torch.set_float32_matmul_precision(torch_precision)
    inputs = make_inputs(size, DEVICE, dtype)
    try:
        found = checked(name, contestant, inputs, precision)
    except Exception as reason:
        if name.startswith(OURS):
            raise
        pytest.skip(f"{name} cannot: {reason}")
    benchmark.extra_info |= found.notes
    if ON_GPU:
        benchmark.extra_info["events_ms"] = measure(found.run, 0.3)

    def repeat():
        for _ in range(REPLAYS):
            found.run()
        if ON_GPU:
            torch.cuda.synchronize()

    benchmark.pedantic(repeat, rounds=9, iterations=1, warmup_rounds=1)
