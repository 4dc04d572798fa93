"""Train many settings with several seeds, each run in its own process; print means and standard
deviations over the seeds and draw a picture. Repeat the command to resume it. All options of
`remi-fast train` apply to every run."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast import extras
from remi_fast.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.config import Config
    from remi_fast.sweep import Outcome, Row, Space, SweepFolder, Trial

    Runs = Iterator[tuple[Trial, Outcome]]


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    from remi_fast.cli import train

    parser.add_argument(
        "--out", required=True, metavar="SWEEP", help="folder of the sweep, to make or to go on in"
    )
    train.add_settings(parser)
    parser.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="KEY=VALUE,VALUE...",
        help="values of a setting, or a range LOW..HIGH; all combinations are trained",
    )
    parser.add_argument(
        "--sample", type=int, help="number of combinations to train, drawn at random"
    )
    parser.add_argument(
        "--optuna",
        type=int,
        help="number of combinations to train, chosen by validation recall@50 with the first "
        "seed; the best is then trained with all seeds",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds for each setting"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of runs in parallel")
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="the paper's ablation at the given beta and lambda: plain, IHN, RR and both",
    )


def arrange(words: list[str], parser: "ArgumentParser") -> list[str]:
    """As for `train`. Raises ConfigError for its --resume."""
    from remi_fast.cli import train

    if "--resume" in words:
        raise ConfigError(
            "--resume: a sweep has no such option: repeat its command to resume it, "
            "without --resume"
        )
    return train.arrange(words, parser)


def run(arguments: Any) -> int:
    """Train what is left, print a line for each run, then the table; draw the picture."""
    from remi_fast import sweep
    from remi_fast.config import config_from_namespace

    _check(arguments)
    config = config_from_namespace(arguments)
    space = sweep.space(_lines(arguments, config))
    sweep.check(config, sweep.each_value(space), arguments.seeds)
    if arguments.optuna:
        search = _search(space)
        folder, data = _open(arguments, config, search_jobs=arguments.jobs)
        _announce(arguments.optuna, space, arguments, config)
        runs = search(
            folder, space, arguments.optuna, seeds=arguments.seeds, data=data, jobs=arguments.jobs
        )
    else:
        settings = sweep.grid(space, arguments.sample)
        folder, data = _open(arguments, config)
        _announce(len(settings), space, arguments, config)
        trials = folder.trials(settings, arguments.seeds)
        runs = sweep.train_all(folder, trials, data, jobs=arguments.jobs)
    try:
        done, failed = _follow(runs)
    except KeyboardInterrupt:
        print(f"{folder.path}: run the same command again to resume", file=sys.stderr)
        raise
    if done:
        _report(sweep.rows(done, best_first=bool(arguments.optuna)), arguments, folder.path)
    return 1 if failed else 0


def _check(arguments: Any) -> None:
    if arguments.data is None:
        raise ConfigError("DATA: got nothing, expected a prepared folder, a raw file, or demo")
    for name in ("jobs", "sample", "optuna"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise ConfigError(f"--{name}: got {number}, expected 1 or more")
    if arguments.sample and arguments.optuna:
        raise ConfigError("--sample and --optuna: got both, expected one")


def _lines(arguments: Any, config: "Config") -> list[str]:
    if not arguments.ablation:
        return list(arguments.grid)
    beta, rr_lambda = config.loss.beta, config.loss.rr_lambda
    if beta == 0 or rr_lambda == 0:
        raise ConfigError(
            f"--ablation: got loss.beta {beta}, loss.rr_lambda {rr_lambda}, "
            "expected both above 0: they are what is left out"
        )
    from remi_fast.sweep import as_text

    ours = {"loss.beta": beta, "loss.rr_lambda": rr_lambda}
    return [*arguments.grid, *(f"{key}=0,{as_text(value)}" for key, value in ours.items())]


def _search(space: "Space") -> Callable[..., "Runs"]:
    """The function that searches. Raises ConfigError for what it lacks."""
    if not space:
        raise ConfigError("--optuna: got no --grid, expected lists or ranges to choose from")
    extras.load("optuna", "sweep", "--optuna")
    from remi_fast.sweep.search import search

    return search


def _open(arguments: Any, config: "Config", search_jobs: int = 0) -> tuple["SweepFolder", Path]:
    """The sweep's folder, and that of its data."""
    from remi_fast.sweep import SweepFolder

    begun = Path(arguments.out).exists()
    folder = SweepFolder(Path(arguments.out), config, str(Path(arguments.data)), search_jobs)
    try:
        return folder, folder.prepared(arguments.data)
    except BaseException:
        if not begun:  # nothing but settings in it
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _announce(number: int, space: "Space", arguments: Any, config: "Config") -> None:
    """Say what is going to be trained, which may be a matter of days."""
    from remi_fast.sweep import most

    settings = "1 setting" if number == 1 else f"{number:,} settings"
    seeds = len(dict.fromkeys(arguments.seeds))
    if arguments.optuna:
        best = f", the best with all {seeds}" if seeds > 1 else ""
        todo = f"{settings} with seed {arguments.seeds[0]}{best}"
    else:
        todo = f"{settings} x {seeds} seed{'s' if seeds > 1 else ''}"
    steps = most(space, "train.steps", config.train.steps)
    print(f"{todo}, at most {steps:,.0f} steps each", file=sys.stderr, flush=True)


def _follow(runs: "Runs") -> tuple[dict["Trial", dict[str, Any]], int]:
    """Print a line for each run; the results, and how many failed."""
    from remi_fast.retrieval.metrics import SELECTION_METRIC as METRIC

    done, failed = {}, 0
    for trial, outcome in runs:
        if isinstance(outcome, str):
            failed += 1
            found = outcome
        else:
            done[trial] = outcome
            test, valid = (outcome[split][METRIC] for split in ("test", "valid"))
            found = f"test {METRIC} {test:.4f}, valid {valid:.4f}"
        print(f"{trial.name} seed {trial.seed}: {found}", file=sys.stderr, flush=True)
    return done, failed


def _report(rows: Sequence["Row"], arguments: Any, out: Path) -> None:
    """Write the tables, draw the picture, print what fits a terminal."""
    from remi_fast import files, sweep
    from remi_fast.retrieval.metrics import SELECTION_METRIC

    metrics = {row.name: row.metrics() for row in rows}
    files.write_json(out / "table.json", metrics)
    text = sweep.markdown(sweep.cells(rows))
    files.write_file(out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    pictures = _draw(rows, Path(arguments.data).name, out / "picture.png")
    if arguments.json:
        print(json.dumps(metrics))
        return
    from rich.console import Console
    from rich.table import Table

    header, *lines = sweep.cells(rows, [SELECTION_METRIC])
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    print(f"{out}: runs; all metrics in table.md, table.json{pictures}")


def _draw(rows: Sequence["Row"], data: str, path: Path) -> str:
    """What to add to the list of files: the picture, where it can be drawn."""
    try:
        from remi_fast.sweep.picture import draw
    except ImportError as error:
        print(f"no picture ({error}): pip install 'remi-fast[sweep]'", file=sys.stderr)
        return ""
    draw(rows, data, path)
    return f"; {path.name}"
