"""What a person sees while a model trains: one line with loss, speed and the last validation."""

import sys
import time
from typing import TYPE_CHECKING, Any

from remi_fast.config import TrainConfig
from remi_fast.retrieval.metrics import SELECTION_METRIC

if TYPE_CHECKING:
    from remi_fast.training.trainer import Trainer

REFRESH_SECONDS = 0.5


class TrainingProgress:
    """A rich progress bar on a terminal, nothing otherwise (metrics.jsonl has it all)."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._bar: Any = None
        self._next = 0.0
        self._last_validation = "not validated yet"

    def __enter__(self) -> "TrainingProgress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self._config.steps)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, trainer: "Trainer") -> None:
        """Show the step just done, now and then."""
        now = time.monotonic()
        if self._bar is None or (now < self._next and trainer.step < self._config.steps):
            return
        self._next = now + REFRESH_SECONDS
        rate = trainer.speed()["samples_per_s"]
        loss = trainer.mean_loss
        shown = f"loss {loss:.3f}  {rate:,.0f} samples/s  {self._last_validation}"
        self._bar.update(self._task, completed=trainer.step, description=shown)

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Remember the last validation."""
        self._last_validation = f"valid {SELECTION_METRIC} {metrics[SELECTION_METRIC]:.4f}"
