"""The runs of a sweep: their folders, and training them in processes of their own."""

import hashlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remi_fast import files
from remi_fast.api import open_data
from remi_fast.config import Config, as_dict, as_yaml
from remi_fast.errors import ConfigError, RunFolderError
from remi_fast.retrieval.metrics import SELECTION_METRIC
from remi_fast.training.run_folder import RunFolder

Settings = dict[str, str]  # configuration key -> value, as on the command line
Outcome = dict[str, Any] | str  # the result of a run, or the error it ended with

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    settings: tuple[tuple[str, str], ...]
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """The settings, in short."""
        return " ".join(_in_short(dict(self.settings))) or "as given"

    def curve(self) -> dict[int, float]:
        """Validation recall@50 by step; empty where nothing was trained (model.name pop)."""
        file = RunFolder(self.folder).metrics_file
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        records = map(json.loads, lines)
        return {r["step"]: r[SELECTION_METRIC] for r in records if r.get("split") == "valid"}


def short(keys: Sequence[str]) -> list[str]:
    """The last parts of configuration keys; the whole of those that share theirs with another."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _in_short(settings: Settings) -> list[str]:
    names = short(list(settings))
    return [f"{name}={value}" for name, value in zip(names, settings.values(), strict=True)]


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}".rstrip("."): each for name, each in inner.items()}
    return flat


class SweepFolder:
    """The folder of a sweep: its data and common settings, and a run folder for each trial."""

    def __init__(self, path: Path, config: Config, data: str, search_jobs: int = 0) -> None:
        """Make the folder, or find that it is of this very sweep.

        search_jobs: of a search, which other jobs would lead elsewhere; else 0.
        Raises RunFolderError where it is something else, ConfigError where data or settings differ.
        """
        self.path, self.base = path, path / "config.yaml"
        self._threads, self._steps = config.train.threads, config.train.steps
        record = {"data": data, **as_dict(config)}
        if search_jobs:
            record["--jobs of the search"] = search_jobs
        file = path / "sweep.json"
        if file.is_file():
            before = _flat(json.loads(file.read_text(encoding="utf-8")))
            for key, value in _flat(record).items():
                if before.get(key) != value:
                    raise ConfigError(
                        f"{path}: a sweep with {key} {before.get(key)!r}, got {value!r}; "
                        "give the same, or another --out"
                    )
            return
        if path.exists():
            raise RunFolderError(f"{path}: exists and is no sweep; give another --out")
        with files.new_folder(path) as new:
            (new / self.base.name).write_text(as_yaml(config), encoding="utf-8")
            files.write_json(new / file.name, record)

    def prepared(self, data: str) -> Path:
        """The folder of prepared data, made once for all runs where it is none yet."""
        own = self.path / "data"
        return open_data(own if own.exists() else data, own).path

    def trials(self, settings: Sequence[Settings], seeds: Sequence[int]) -> list[Trial]:
        """Every setting with every seed, once, all settings with the first seed first."""
        trials = [
            Trial(tuple(each.items()), seed, self.path / _folder(each, seed))
            for seed in seeds
            for each in settings
        ]
        return list(dict.fromkeys(trials))

    def train(self, trial: Trial, data: Path, jobs: int = 1) -> Outcome:
        """The result of a trial, which is trained (on) if need be, or the error it ended with.

        jobs: how many are trained at a time: they share the cores where train.threads is 0.
        """
        if (finished := _result(trial)) is not None:
            return finished
        words = ["--resume"]
        if not _can_go_on(trial.folder):
            threads = self._threads or max(1, len(os.sched_getaffinity(0)) // jobs)
            own = [("train.threads", str(threads)), *trial.settings]
            words = [str(data), "--config", str(self.base), *as_options(own)]
            words.append(f"--train.seed={trial.seed}")
        command = [sys.executable, "-m", "remi_fast.cli", "train", "--out", str(trial.folder)]
        goes = "goes on" if words[0] == "--resume" else "starts"
        steps = dict(trial.settings).get("train.steps", self._steps)
        logger.info("%s seed %d: %s, at most %s steps", trial.name, trial.seed, goes, steps)
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        return _result(trial) or _last_words(done.stderr)


def _last_words(text: str) -> str:
    """The error that a run ended with, from what it wrote: its log is no part of it."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("remi-fast: ")]
    return (lines or ["interrupted"])[-1]


def _can_go_on(folder: Path) -> bool:
    """Whether there is a run to resume; one that saved nothing to go on from is removed."""
    if not folder.exists():
        return False
    if files.standing(RunFolder(folder).last).exists():
        return True
    with files.locked(folder) as mine:
        if mine is False:  # another sweep is training it
            return True
        shutil.rmtree(folder)
    return False


def as_options(settings: Iterable[tuple[str, str]]) -> list[str]:
    """The settings as words of the command line."""
    return [f"--{key}={value}" for key, value in settings]


def _folder(settings: Settings, seed: int) -> str:
    """A name that is readable, and one's own also where it had to be cut."""
    text = ",".join(_in_short(settings))
    readable = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)[:80]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return f"{readable or 'as-given'}-{digest}-seed{seed}"


def train_all(
    folder: SweepFolder, todo: Sequence[Trial], data: Path, *, jobs: int
) -> Iterator[tuple[Trial, Outcome]]:
    """Each trial, in order, and its result, or the error it ended with; `jobs` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = pool.map(lambda trial: folder.train(trial, data, jobs), todo)
        yield from zip(todo, outcomes, strict=True)


def _result(trial: Trial) -> dict[str, Any] | None:
    file = RunFolder(trial.folder).result_file
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Over seeds; the deviation of one is 0."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
