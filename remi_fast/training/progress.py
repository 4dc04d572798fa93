"""What a person sees while a model trains: a line that renews itself on a terminal, elsewhere (a
file, a log of a batch system) one for each validation."""

import logging
import math
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from remi_fast.config import TrainConfig
from remi_fast.retrieval.metrics import SELECTION_METRIC

if TYPE_CHECKING:
    from remi_fast.training.trainer import Trainer

REFRESH_SECONDS = 0.5
BAR = 4, 24  # least and most characters

logger = logging.getLogger(__name__)


class TrainingProgress:
    """A rich progress bar on a terminal, lines of the log otherwise (metrics.jsonl has it all)."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._bar: Any = None
        self._next = 0.0
        self._last_validation = "not validated yet"

    def __enter__(self) -> "TrainingProgress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, TextColumn

            self._bar = Progress(TextColumn("{task.description}"), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._config.steps)
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
        self._bar.update(self._task, completed=trainer.step)
        left = self._bar.tasks[self._task].time_remaining
        shown = line(
            self._bar.console.width,
            (trainer.step, self._config.steps),
            left,
            [self._last_validation, *_loss_and_speed(trainer)],
        )
        self._bar.update(self._task, description=shown)

    def evaluated(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        """Remember the last validation, or write it down."""
        found = metrics[SELECTION_METRIC]
        self._last_validation = f"valid {SELECTION_METRIC} {found:.4f}"
        if self._bar is None:
            step, best = trainer.best["step"], trainer.best["valid"][SELECTION_METRIC]
            parts = *_loss_and_speed(trainer), self._last_validation
            logger.info(
                "step %d of %d: %s (best %.4f, step %d)",
                *(trainer.step, self._config.steps, ", ".join(parts), best, step),
            )


def _loss_and_speed(trainer: "Trainer") -> tuple[str, str]:
    return f"loss {trainer.mean_loss:.3f}", f"{trainer.speed()['samples_per_s']:,.0f} samples/s"


def line(width: int, done: tuple[int, int], seconds_left: float | None, more: list[str]) -> str:
    """The line of a terminal of `width` characters, in rich's markup.

    Step, number of steps and time left are never cut. Where it is narrow the bar shrinks; then the
    last of `more` go, one by one.
    """
    step, steps = done
    left = "-:--:--" if seconds_left is None else str(timedelta(seconds=math.ceil(seconds_left)))
    numbers = f"{step:{len(str(steps))}}/{steps} {left}"
    least, most = BAR
    shown = list(more)
    while True:
        text = "  ".join([numbers, *shown])
        room = width - len(f"training  {text}")
        if room >= least or not shown:
            break
        shown.pop()
    bar = max(0, min(most, room))
    full = bar * step // steps
    drawn = f"[bar.complete]{'━' * full}[/][bar.back]{'━' * (bar - full)}[/] " if bar else ""
    return f"training {drawn}{text}"
