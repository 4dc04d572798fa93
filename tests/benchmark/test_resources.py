"""Memory, kernels and the rows' traffic of `remi-fast bench`."""

from types import SimpleNamespace

import pytest
import torch

from remi_fast.benchmark import resources, steps
from remi_fast.benchmark.resources import counted, peak_memory, table_traffic
from remi_fast.benchmark.steps import Data, rows_traffic
from remi_fast.cli.bench.step import show
from remi_fast.config import Config, TrainConfig
from remi_fast.kernels.negatives import sample_negatives

CPU = torch.device("cpu")


def event(name, start, end, device="CUDA", annotation=False):
    span = SimpleNamespace(elapsed_us=lambda: end - start)
    kind = getattr(torch.autograd.DeviceType, device)
    return SimpleNamespace(
        name=name, time_range=span, device_type=kind, is_user_annotation=annotation
    )


def test_kernels_are_counted_by_step():
    events = [
        event("aten::add", 0, 90, device="CPU"),
        event("my loop", 0, 90, annotation=True),
        *[event("gather", 10 * i, 10 * i + 3) for i in range(4)],
        event("loss", 50, 60),
        event("loss", 70, 90),
        event("Memcpy DtoH (Device -> Pinned)", 91, 92),
        event("Memset (Device)", 92, 93),
    ]
    assert counted(events, steps=2) == {
        "kernels": 3.0,
        "copies": 1.0,
        "kernel_us": {
            "loss": 15.0,
            "gather": 6.0,
            "Memcpy DtoH (Device -> Pinned)": 0.5,
            "Memset (Device)": 0.5,
        },
    }
    assert counted(events[:2], steps=2) == {}  # a profiler that does not see the GPU


def test_a_row_moves_its_weight_three_times_and_its_moments_twice():
    # one row of 2 float32, used in two places: gather 8; update 48 and a stamp 8; gradients 2 x 16
    assert table_traffic(places=2, distinct=1, dim=2) == 8 + 48 + 8 + 32
    # 3,968 places of 3,947 rows at B = 128 (the design's floors): 8.1 MB, 1.9 us at 4.3 TB/s
    assert table_traffic(3968, 3947, 64) / 4.3e12 == pytest.approx(2.1e-6, rel=0.1)


def test_a_copy_moves_what_it_reads_and_what_it_writes(monkeypatch):
    monkeypatch.setitem(resources.COPIED, "cpu", 1000)
    monkeypatch.setattr(resources, "measure", lambda run, seconds: run() is not None and 0.5)
    assert resources.copy_bandwidth(CPU) == 2 * 1000 / 0.5e-3


def test_traffic_is_of_the_rows_of_a_batch(monkeypatch):
    monkeypatch.setitem(resources.COPIED, "cpu", 1 << 20)
    config = Config(train=TrainConfig(batch_size=4))
    data = Data(num_items=200, num_users=30)
    least = rows_traffic(data, config, CPU)
    loader, places, distinct = data.loader(config), [], []
    for step in range(4):
        batch = loader.batch(step)
        drawn = sample_negatives(config.loss.num_negatives, 200, seed=config.train.seed, step=step)
        ids = [*batch.target.tolist(), *drawn.tolist()]
        for row, length in zip(batch.history.tolist(), batch.length.tolist(), strict=True):
            ids += row[:length]
        places.append(len(ids))
        distinct.append(len(set(ids)))
    assert least["bytes"] == table_traffic(sum(places) / 4, sum(distinct) / 4, 64)
    assert least["ms"] == pytest.approx(1e3 * least["bytes"] / least["bytes_per_s"], rel=1e-6)
    assert 1e8 < least["bytes_per_s"] < 1e12


def test_traffic_is_told_by_the_time_of_a_step(monkeypatch):
    monkeypatch.setattr(
        steps, "rows_traffic", lambda *_: {"bytes": 1, "bytes_per_s": 1, "ms": 0.01}
    )
    case = steps.compare(Data(300, 40), steps.settings(16), peers="none", rounds=1, seconds=0.001)
    for row in case["contestants"].values():
        assert row["traffic_by_time"] == pytest.approx(0.01 / row["ms"], abs=1e-4)
        assert "peak_bytes" not in row and "kernels" not in row  # of a GPU
    assert case["device"] == "cpu"


def test_a_contestant_of_several_steps_is_timed_by_the_step(monkeypatch):
    monkeypatch.setattr(resources, "copy_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(steps, "take_turns", lambda runs, *_: {name: [6.0] for name in runs})
    monkeypatch.setitem(steps.STEPS_A_CALL, "cpu", 3)
    case = steps.compare(Data(300, 40), steps.settings(16), peers="eager", rounds=1, seconds=0)
    times = {name: row["ms"] for name, row in case["contestants"].items()}
    assert times[steps.REMI] == 2 and times["published, without them"] == 6


def test_a_cpu_says_nothing_of_memory():
    calls = []
    contestant = steps.Contestant(lambda: calls.append(1))
    assert peak_memory(lambda: contestant, CPU) == (contestant, {})
    assert len(calls) == 2


def test_memory_of_a_gpu_is_what_came_up(monkeypatch):
    numbers = {"memory_allocated": 100, "memory_reserved": 1000}
    numbers |= {"max_memory_allocated": 150, "max_memory_reserved": 1400}
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda number=number: number)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    contestant = steps.Contestant(lambda: None)
    found = peak_memory(lambda: contestant, torch.device("cuda"))
    assert found == (contestant, {"peak_bytes": 50, "reserved_bytes": 400})


def test_what_is_known_of_a_gpu_is_shown(capsys):
    row = {"ms": 0.05, "samples_per_s": 2_560_000, "ratio": 1.0, "ratio_range": [1.0, 1.0]}
    row |= {"traffic_by_time": 0.0383, "kernels": 11.5, "peak_bytes": 300 << 20}
    row |= {"reserved_bytes": 555 << 20}
    row |= {"kernel_us": {"loss": 12.34}}
    case = {
        "batch_size": 128, "items": 368_000, "device": "cuda", "precision": "bf16",
        "contestants": {"remi-fast": row}, "negatives": 1280,
        "remi_by_plain": {"ratio": 1.0, "lowest": 1.0, "highest": 1.0},
        "cannot": {"compiled": "Error: no compiler"},
        "traffic": {"bytes": 8.1e6, "bytes_per_s": 4.3e12, "ms": 0.0019},
    }  # fmt: skip
    show(case)
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "3.8%",
        "11.5",
        "300",
        "555",
        "8.1 MB",
        "4,300 GB/s",
        "0.0019 ms",
        "by kernel: loss 12.3",
    ):
        assert part in shown
