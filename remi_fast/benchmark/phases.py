"""Where the time of a training step goes, by the parts of the step."""

import time
from collections.abc import Callable
from typing import Any

from remi_fast.benchmark.steps import Data
from remi_fast.config import Config
from remi_fast.models.recommender import make_model
from remi_fast.training.step import TrainingStep

WARM_UP = 50  # steps


def phases(data: Data, config: Config, steps: int) -> dict[str, float]:
    """Milliseconds of a step on the CPU, the mean over `steps`; "the rest" is what the named parts
    leave of the whole. On a GPU, see `resources.launched`."""
    step = TrainingStep(make_model(config.model, data.num_items, seed=1), config)
    taken: dict[str, float] = {}
    # Replaced from here: hooks in the steps would be paid for by every training.
    for owner, method, name in (
        (step, "candidates", "negatives"),
        (step.table_optimizer, "group", "gather"),
        (step.model.table, "lookup", "gather"),
        (step.model.extractor, "forward", "extractor"),
        (step, "objective", "loss"),
        (step, "backward", "backward"),
        (step.table_optimizer, "collect", "table update"),
        (step.dense_optimizer, "step_if_finite", "extractor update"),
        (step.table_optimizer, "apply", "table update"),
    ):
        setattr(owner, method, _Timed(getattr(owner, method), taken, name))
    batches = iter(data.loader(config))
    whole = 0.0
    for number in range(WARM_UP + steps):
        if number == WARM_UP:
            taken.clear()
            whole = 0.0
        start = time.perf_counter()
        batch = next(batches)
        taken["batch"] = taken.get("batch", 0.0) + time.perf_counter() - start
        step(number, batch.history, batch.length, batch.target)
        whole += time.perf_counter() - start
    taken["the rest"] = whole - sum(taken.values())
    return {name: round(1e3 * seconds / steps, 4) for name, seconds in taken.items()}


class _Timed:
    """A callable, and how long its calls took in all."""

    def __init__(self, timed: Callable[..., Any], taken: dict[str, float], name: str) -> None:
        self._timed, self._taken, self._name = timed, taken, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = self._timed(*arguments, **options)
        self._taken[self._name] = self._taken.get(self._name, 0.0) + time.perf_counter() - start
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._timed, name)
