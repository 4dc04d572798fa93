"""A million steps of the trainer on generated data: does memory grow, do steps become uneven?

    python -m bench.endurance --steps 1000000 --save endurance

A whole run as `remi-fast train demo` does it, small enough for its steps to take under a
millisecond, with its logs, validations and checkpoints. Bars: after the warm-up memory grows by
less than 1 MB an hour, and the 99th percentile of the step time is at most 1.5 times the median.

Memory is what the process made itself (heap, stacks): pages of files, such as libraries, come and
go as the kernel likes. The C library is told to keep what is freed, which else goes back and forth,
some 5 MB at a time, and hides slopes of less.
"""

import argparse
import ctypes
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import results
from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig
from remi_fast.data.dataset import Dataset
from remi_fast.data.demo import prepare_demo
from remi_fast.training.run_folder import MetricsLog, RunFolder
from remi_fast.training.step import StepLoss
from remi_fast.training.trainer import Trainer

M_TRIM_THRESHOLD = -1  # its number in malloc.h
SAMPLE_EVERY = 500  # steps between two looks at the memory
VALIDATIONS = 100
WARM_UP = 0.1  # share of the steps
MOST_GROWTH, MOST_SPREAD = 1.0, 1.5  # MB an hour; 99th percentile by median


class MeasuredTrainer(Trainer):
    """A trainer that notes the time of every step and, now and then, its memory."""

    def __init__(self, run: RunFolder, dataset: Dataset, config: Config) -> None:
        super().__init__(run, dataset, config)
        # written now, for what is measured not to be these pages
        self.step_seconds = np.full(config.train.steps, np.nan)
        self.hours, self.megabytes = np.full((2, config.train.steps // SAMPLE_EVERY), np.nan)
        self._seconds_before = 0.0
        self._statm = open("/proc/self/statm", "rb", buffering=0)  # noqa: SIM115

    def _log(self, log: MetricsLog, losses: list[StepLoss]) -> None:  # on the CPU, of one step
        super()._log(log, losses)
        self.step_seconds[self.step - 1] = self.train_seconds - self._seconds_before
        self._seconds_before = self.train_seconds
        if self.step % SAMPLE_EVERY == 0:
            place = self.step // SAMPLE_EVERY - 1
            self.hours[place] = time.perf_counter() / 3600
            self.megabytes[place] = self._anonymous() / 1e6

    def _anonymous(self) -> int:
        self._statm.seek(0)
        _, resident, of_files, *_ = map(int, self._statm.read().split())
        return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")


def config(steps: int) -> Config:
    """A small model; many validations, each with a checkpoint, and never out of patience."""
    return Config(
        model=ModelConfig(dim=16, num_interests=2, max_history=10),
        loss=LossConfig(num_negatives=64),
        train=TrainConfig(
            batch_size=32,
            steps=steps,
            eval_every=max(1, steps // VALIDATIONS),
            eval_users=200,
            patience=steps,
            threads=1,
        ),
    )


def slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The line of least squares through the points: its slope and the standard error of it."""
    x, y = x - x.mean(), y - y.mean()
    rise = (x @ y) / (x @ x)
    residual = y - rise * x
    return float(rise), float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))


def measure(steps: int, folder: Path) -> dict[str, Any]:
    """Train; return the figures after the warm-up."""
    ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 1 << 30)
    settings = config(steps)
    dataset = prepare_demo(folder / "data")
    with RunFolder.create(folder / "run", settings) as new:
        new.record_data(dataset)
    trainer = MeasuredTrainer(RunFolder.open(folder / "run"), dataset, settings)
    trainer.fit()
    seconds = trainer.step_seconds[int(WARM_UP * steps) :]
    hours, megabytes = (
        values[int(WARM_UP * len(values)) :] for values in (trainer.hours, trainer.megabytes)
    )
    growth, error = slope(hours, megabytes)
    median, p99 = (1e3 * float(np.quantile(seconds, q)) for q in (0.5, 0.99))
    return {
        "steps": len(seconds),
        "hours": float(hours[-1] - hours[0]),
        "memory": {
            "MB_per_hour": growth,
            "standard_error": error,
            "first_MB": float(megabytes[0]),
            "last_MB": float(megabytes[-1]),
            "peak_MB": float(megabytes.max()),
        },
        "step_ms": {"p50": median, "p99": p99, "p99_by_p50": p99 / median},
        "held": {
            "memory": growth < MOST_GROWTH,
            "step_time": p99 <= MOST_SPREAD * median,
        },
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000, help="at least 50,000")
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    if arguments.steps < SAMPLE_EVERY * VALIDATIONS:
        parser.error(
            f"--steps: got {arguments.steps}, expected {SAMPLE_EVERY * VALIDATIONS:,} or more"
        )
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments.steps, Path(folder))
    for name, value in measured.items():
        print(f"{name}: {value}")
    if arguments.save:
        print(results.save(arguments.save, measured))


if __name__ == "__main__":
    main()
