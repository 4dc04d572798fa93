"""Trains many settings with many seeds, each run in a process of its own, and compares them."""

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from remi_fast import files
from remi_fast.api import open_data
from remi_fast.config import Config, as_dict, as_yaml, load_config
from remi_fast.errors import ConfigError, RunFolderError

Settings = dict[str, str]  # configuration key -> value, as on the command line


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    settings: tuple[tuple[str, str], ...]
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """The settings, as tables show them."""
        short = [(key.rpartition(".")[2], value) for key, value in self.settings]
        return " ".join(f"{key}={value}" for key, value in short) or "as given"


def grid(lines: Sequence[str], sample: int | None, seed: int = 0) -> list[Settings]:
    """All combinations of `key=value,value...` lines; or `sample` of them, drawn without repeats.

    Raises ConfigError for a line of another form, or a key that comes twice.
    """
    keys: dict[str, list[str]] = {}
    for line in lines:
        key, equals, values = line.removeprefix("--").partition("=")
        if not (key and equals and all(values.split(","))) or key in keys:
            raise ConfigError(
                f"--grid: got {line!r}, expected key=value,value... such as loss.beta=0,1, "
                "every key once"
            )
        keys[key] = values.split(",")
    combinations = [dict(zip(keys, each, strict=True)) for each in product(*keys.values())]
    if sample is None or sample >= len(combinations):
        return combinations
    if sample < 1:
        raise ConfigError(f"--sample: got {sample}, expected 1 or more")
    from remi_fast.kernels.permutation import permute

    chosen = permute(range(sample), len(combinations), seed=seed, step=0)
    return [combinations[i] for i in sorted(chosen)]


def check(config: Config, settings: Sequence[Settings], seeds: Sequence[int] = ()) -> None:
    """Raise ConfigError, before anything is made, for a key or value that is none."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "config.yaml"
        base.write_text(as_yaml(config), encoding="utf-8")
        for each in settings:
            load_config(base, tuple(_options(each.items())))
        for seed in seeds:
            load_config(base, (f"--train.seed={seed}",))


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}".rstrip("."): each for name, each in inner.items()}
    return flat


class SweepFolder:
    """The folder of a sweep: its data and common settings, and a run folder for each trial."""

    def __init__(self, path: Path, config: Config, data: str) -> None:
        """Make the folder, or find that it is of this very sweep.

        Raises RunFolderError where it is something else, ConfigError where data or settings differ.
        """
        self.path, self.base = path, path / "config.yaml"
        record = {"data": data, **as_dict(config)}
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
        """Every setting with every seed, all settings with the first seed first."""
        return [
            Trial(tuple(each.items()), seed, self.path / _folder(each, seed))
            for seed in seeds
            for each in settings
        ]

    def train(self, trial: Trial, data: Path) -> dict[str, Any] | str:
        """The result of a trial, which is trained (on) if need be, or the error it ended with."""
        if (finished := _result(trial)) is not None:
            return finished
        words = ["--resume"]
        if not trial.folder.exists():
            words = [str(data), "--config", str(self.base), *_options(trial.settings)]
            words.append(f"--train.seed={trial.seed}")
        command = [sys.executable, "-m", "remi_fast.cli", "train", "--out", str(trial.folder)]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        result = _result(trial)
        return result or (done.stderr.strip().splitlines() or ["interrupted"])[-1]


def _options(settings: Iterable[tuple[str, str]]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings]


def _folder(settings: Settings, seed: int) -> str:
    """A name that is readable, and one's own also where it had to be cut."""
    text = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())
    readable = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)[:80]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return f"{readable or 'as-given'}-{digest}-seed{seed}"


def train_all(
    folder: SweepFolder, todo: Sequence[Trial], data: Path, *, jobs: int
) -> Iterator[tuple[Trial, dict[str, Any] | str]]:
    """Each trial, in order, and its result, or the error it ended with; `jobs` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(todo, pool.map(lambda trial: folder.train(trial, data), todo), strict=True)


def _result(trial: Trial) -> dict[str, Any] | None:
    file = trial.folder / "result.json"
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Over seeds; the deviation of one is 0."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
