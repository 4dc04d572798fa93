"""What the folders of runs say by themselves: settings, logs, results. Loads no model."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from remi_fast import files
from remi_fast.config import Config, as_dict
from remi_fast.errors import ConfigError, CorruptFileError, shown
from remi_fast.retrieval.metrics import SELECTION_METRIC
from remi_fast.training.run_folder import RunFolder

MOST = 8  # runs that can be told apart by their colours

Record = dict[str, float]
Points = tuple[list[float], list[float]]  # steps, and a value at each


@dataclass(frozen=True)
class Run:
    """A run as its files have it."""

    folder: RunFolder
    label: str  # of the runs of a report, each has its own
    config: Config
    logs: dict[str, list[Record]]  # "train", "valid", "diagnostics"
    unreadable: int  # lines of the log
    result: dict[str, Any] | None  # None: it is not finished
    environment: dict[str, Any]

    @property
    def step(self) -> int:
        """The last step it is known to have taken."""
        if self.result is not None:
            return int(self.result["train"]["steps"])
        return int(max((r["step"] for log in self.logs.values() for r in log), default=0))

    @property
    def state(self) -> str:
        """Whether it is finished."""
        steps = self.config.train.steps
        if self.result is None:
            return f"not finished: step {self.step:,} of {steps:,}"
        if self.config.model.name == "pop":
            return "finished: counted, not trained"
        early = "" if self.step >= steps else f" of {steps:,}, stopped by train.patience"
        return f"finished: step {self.step:,}{early}"

    @property
    def notes(self) -> list[str]:
        """What is missing, and why."""
        notes = []
        if self.result is None:
            notes.append(
                f"{self.state}. It was interrupted, or is still training: there are no test "
                "metrics, and the validation metrics are the best so far."
            )
        if self.unreadable:
            notes.append(
                f"lines of {self.folder.metrics_file.name} that cannot be read (cut off by a kill, "
                f"or damaged) are left out: {self.unreadable:,}."
            )
        return notes

    @cached_property
    def best(self) -> tuple[int, Record]:
        """The best step by validation, and its metrics; 0 and none if it was never validated."""
        if self.result is not None:
            return int(self.result["best_step"]), self.result["valid"]
        rows = [record for record in self.logs["valid"] if SELECTION_METRIC in record]
        if not rows:
            return 0, {}
        best = max(rows, key=lambda record: record[SELECTION_METRIC])  # the first, as in training
        return int(best["step"]), {name: best[name] for name in best if name != "step"}

    def metrics(self, split: str) -> Record:
        """Metrics of "valid" (at the best step) or "test"; none where there are none yet."""
        if split == "valid":
            return self.best[1]
        return self.result["test"] if self.result is not None else {}

    def points(self, log: str, key: str) -> Points:
        """A logged value over the steps."""
        rows = [record for record in self.logs[log] if key in record]
        return [record["step"] for record in rows], [record[key] for record in rows]

    def throughput(self) -> Points:
        """Samples a second of training time, between every two lines of the log."""
        rows = [record for record in self.logs["train"] if "seconds" in record]
        steps, rates = [], []
        for before, now in zip([{"step": 0.0, "seconds": 0.0}, *rows], rows, strict=False):
            seconds, taken = now["seconds"] - before["seconds"], now["step"] - before["step"]
            if seconds > 0 and taken > 0:
                steps.append(now["step"])
                rates.append(taken * self.config.train.batch_size / seconds)
        return steps, rates

    def settings(self) -> dict[str, str]:
        """Every configuration key and its value as text."""
        return {
            f"{section}.{key}": f"{value:g}" if isinstance(value, float) else str(value)
            for section, values in as_dict(self.config).items()
            for key, value in values.items()
        }


def read(paths: Sequence[Path]) -> list[Run]:
    """The runs, in the order given.

    Raises ConfigError for a run given twice and for more than 8, RunFolderError for what is no
    run, CorruptFileError for a damaged file.
    """
    if len(paths) > MOST:
        raise ConfigError(
            f"RUN: got {len(paths)} runs, expected at most {MOST}: the colours of more cannot be "
            "told apart"
        )
    places = [path.resolve() for path in paths]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ConfigError(f"RUN: got {shown(str(paths[i]))} twice, expected every run once")
    return [_read(path, label) for path, label in zip(paths, labels(paths), strict=True)]


def _read(path: Path, label: str) -> Run:
    folder = RunFolder.open(path)
    config = folder.config()
    logs, unreadable = _logs(folder.metrics_file)
    environment = _object(path / "env.json") if (path / "env.json").is_file() else {}
    return Run(folder, label, config, logs, unreadable, _result(folder.result_file), environment)


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each path: as few of its last parts as tell them apart."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    names = [path[-1] for path in parts]
    length = 1
    while len(set(names)) < len(names) and length < max(map(len, parts)):
        length += 1
        names = ["/".join(path[-length:]) for path in parts]
    return [printable(name) for name in names]


def printable(text: str) -> str:
    """Text that any page and picture can hold: file names and ids can be anything."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _logs(file: Path) -> tuple[dict[str, list[Record]], int]:
    """The records of metrics.jsonl by their split, and how many lines are none."""
    logs: dict[str, list[Record]] = {"train": [], "valid": [], "diagnostics": []}
    unreadable = 0
    if file.is_file():
        with open(file, "rb") as lines:
            for line in lines:
                try:
                    split, record = _record(line)
                    logs[split].append(record)
                except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                    unreadable += 1
    return logs, unreadable


def _record(line: bytes) -> tuple[str, Record]:
    record = json.loads(line)
    split = record.pop("split", "train")
    if not 0 <= record["step"] < 2**53:
        raise ValueError(record["step"])
    return split, _numbers(record)


def _numbers(record: dict[str, Any]) -> Record:
    """The record, if all its values are finite numbers. Raises ValueError, AttributeError."""
    for value in record.values():
        if type(value) not in (int, float) or not abs(value) < math.inf or abs(value) > 1e300:
            raise ValueError(value)
    return {name: float(value) for name, value in record.items()}


def _result(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    found = _object(file)
    try:
        parts = {name: _numbers(found[name]) for name in ("valid", "test", "train")}
        scalars = {name: found[name] for name in ("best_step", "test_step")}
        for name in ("steps", "seconds", "samples_per_s"):
            parts["train"][name]
        return {**_numbers(scalars), **parts}
    except (KeyError, ValueError, AttributeError):
        raise CorruptFileError(
            f"{file}: got {shown(found)}, expected best_step, test_step, valid, test and train "
            "with their numbers, as `remi-fast train` writes them"
        ) from None


def _object(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CorruptFileError."""
    size = file.stat().st_size
    if size > files.MAX_JSON:
        raise CorruptFileError(f"{file}: got {size} bytes, expected at most {files.MAX_JSON}")
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptFileError(f"{file}: got {shown(value)}, expected a JSON object")
    return value
