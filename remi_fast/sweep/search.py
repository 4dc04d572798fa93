"""Settings that optuna chooses by the validation recall@50 of those before. Needs optuna.

Every choice is a function of its number and the results so far: of a search that was stopped, the
same command makes the same choices again, finds their results, and goes on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from remi_fast.kernels.permutation import permute
from remi_fast.retrieval.metrics import SELECTION_METRIC
from remi_fast.sweep.runs import Outcome, Settings, SweepFolder, Trial, train_all
from remi_fast.sweep.space import Range, Space

FAILED = 0.0  # the recall of a run that ended with an error: the search avoids its like

Tried = list[tuple[Settings, float]]  # settings, and the validation recall@50 they led to


def suggest(space: Space, tried: Tried, number: int) -> list[Settings]:
    """The next settings to try, `number` of them, by optuna's TPE sampler."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(values) for key, values in space.items()}
    finished = [
        optuna.trial.create_trial(
            params={key: _value(space[key], text) for key, text in settings.items()},
            distributions=distributions,
            value=recall,
        )
        for settings, recall in tried
    ]
    suggested = []
    numbers = range(len(tried), len(tried) + number)
    for seed in permute(numbers, 2**32, seed=0, step=0):  # of seeds 0, 1, ... draws are alike
        sampler = optuna.samplers.TPESampler(seed=int(seed))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(finished)
        params = study.ask(distributions).params
        suggested.append({key: _text(space[key], value) for key, value in params.items()})
    return suggested


def _distribution(values: list[str] | Range) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _value(values: list[str] | Range, text: str) -> str | float:
    if not isinstance(values, Range):
        return text
    return int(text) if values.whole else float(text)


def _text(values: list[str] | Range, value: str | float) -> str:
    return values.text(float(value)) if isinstance(values, Range) else str(value)


def search(
    folder: SweepFolder,
    space: Space,
    number: int,
    *,
    seeds: Sequence[int],
    data: Path,
    jobs: int,
) -> Iterator[tuple[Trial, Outcome]]:
    """Each run and its outcome: `number` settings with the first seed, `jobs` chosen at a time;
    then the best of them, by validation, with the other seeds."""
    tried: Tried = []
    while len(tried) < number:
        chosen = suggest(space, tried, min(jobs, number - len(tried)))
        recall = {}
        for trial, outcome in train_all(folder, folder.trials(chosen, seeds[:1]), data, jobs=jobs):
            yield trial, outcome
            found = FAILED if isinstance(outcome, str) else outcome["valid"][SELECTION_METRIC]
            recall[trial.settings] = found
        tried += [(settings, recall[tuple(settings.items())]) for settings in chosen]
    best, _ = max(tried, key=lambda each: each[1])
    yield from train_all(folder, folder.trials([best], seeds[1:]), data, jobs=jobs)
