"""The table of a sweep: a row for each setting, means and standard deviations over its seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remi_fast.retrieval.evaluate import DEFAULT_KS
from remi_fast.retrieval.metrics import NAMES, SELECTION_METRIC
from remi_fast.sweep.runs import Trial, mean_and_deviation, short

METRICS = tuple(f"{name}@{k}" for name in NAMES for k in DEFAULT_KS)  # of the test
CHOICE = f"valid {SELECTION_METRIC}"  # what settings are chosen by; the test is for reporting


@dataclass(frozen=True)
class Row:
    """A setting: the runs of its seeds, and their results."""

    trials: list[Trial]
    results: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The setting, in short."""
        return self.trials[0].name

    def values(self, split: str, metric: str) -> list[float]:
        """A metric of each seed."""
        return [result[split][metric] for result in self.results]

    def metrics(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the seeds, of what the table shows."""
        values = {CHOICE: self.values("valid", SELECTION_METRIC)}
        values |= {name: self.values("test", name) for name in METRICS}
        return {name: mean_and_deviation(each) for name, each in values.items()}


def rows(done: Mapping[Trial, dict[str, Any]], *, best_first: bool = False) -> list[Row]:
    """A row for each setting of one run or more, in their order, or by validation recall@50."""
    found: dict[tuple[tuple[str, str], ...], Row] = {}
    for trial, result in done.items():
        row = found.setdefault(trial.settings, Row([], []))
        row.trials.append(trial)
        row.results.append(result)
    return by_choice(list(found.values())) if best_first else list(found.values())


def by_choice(rows: Sequence[Row]) -> list[Row]:
    """The best first, by the seeds that all of them have: of a search, the first."""
    common = set.intersection(*({trial.seed for trial in row.trials} for row in rows))

    def recall(row: Row) -> float:
        values = zip(row.trials, row.values("valid", SELECTION_METRIC), strict=True)
        return statistics.mean(v for trial, v in values if trial.seed in common or not common)

    return sorted(rows, key=recall, reverse=True)


def cells(rows: Sequence[Row], test: Sequence[str] = METRICS) -> list[list[str]]:
    """The table as text, its header first: swept keys, valid recall@50, test metrics, seeds."""
    keys = short([key for key, _ in rows[0].trials[0].settings])
    table = [[*keys, CHOICE, *(f"test {name}" for name in test), "seeds"]]
    for row in rows:
        values = [value for _, value in row.trials[0].settings]
        found = [row.metrics()[name] for name in (CHOICE, *test)]
        seeds = len(row.trials)
        shown = [
            f"{m:.4f} ± {deviation:.4f}" if seeds > 1 else f"{m:.4f}" for m, deviation in found
        ]
        table.append([*values, *shown, str(seeds)])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The cells as a Markdown table."""
    header, *body = table
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
