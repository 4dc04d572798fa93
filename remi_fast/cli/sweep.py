"""Train many settings with several seeds, each run in a process of its own; print means and
standard deviations over the seeds. The same command again goes on where it was stopped. Other
options are those of `remi-fast train`, for all runs."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.config import Config
    from remi_fast.sweep import Trial

METRICS = ("recall@20", "hit_rate@20", "ndcg@20", "recall@50")


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    from remi_fast.cli import train

    train.add_arguments(parser)
    parser.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="KEY=VALUE,VALUE...",
        help="values of a setting; all combinations are trained",
    )
    parser.add_argument("--sample", type=int, help="train so many combinations, drawn at random")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of each setting")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="the paper's: plain, IHN alone, RR alone, both, at the given beta and lambda",
    )


def arrange(words: list[str]) -> list[str]:
    """As for `train`."""
    from remi_fast.cli import train

    return train.arrange(words)


def run(arguments: Any) -> int:
    """Train what is left, print a line for each run, then the table."""
    from remi_fast import sweep
    from remi_fast.config import config_from_namespace

    if arguments.resume or arguments.data is None:
        raise ConfigError(
            "DATA: expected a prepared folder, a raw file, or demo; "
            "a sweep goes on where it was without --resume"
        )
    config = config_from_namespace(arguments)
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs: got {arguments.jobs}, expected 1 or more")
    settings = sweep.grid(_lines(arguments, config), arguments.sample)
    if config.train.threads == 0:  # the cores are shared by the jobs
        threads = max(1, len(os.sched_getaffinity(0)) // arguments.jobs)
        config = replace(config, train=replace(config.train, threads=threads))
    sweep.check(config, settings, arguments.seeds)
    begun = Path(arguments.out).exists()
    folder = sweep.SweepFolder(Path(arguments.out), config, str(Path(arguments.data)))
    todo = folder.trials(settings, arguments.seeds)
    try:
        data = folder.prepared(arguments.data)
    except BaseException:
        if not begun:  # nothing but settings in it
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    done, failed = [], 0
    for trial, outcome in sweep.train_all(folder, todo, data, jobs=arguments.jobs):
        if isinstance(outcome, str):
            failed += 1
            print(f"{trial.name} seed {trial.seed}: {outcome}", file=sys.stderr)
        else:
            done.append((trial, outcome))
            found = f"test recall@50 {outcome['test']['recall@50']:.4f}"
            print(f"{trial.name} seed {trial.seed}: {found}", file=sys.stderr, flush=True)
    _show(done, folder.path, arguments.json)
    return 1 if failed else 0


def _lines(arguments: Any, config: "Config") -> list[str]:
    if not arguments.ablation:
        return list(arguments.grid)
    beta, rr_lambda = config.loss.beta, config.loss.rr_lambda
    if beta == 0 or rr_lambda == 0:
        raise ConfigError(
            f"--ablation: got loss.beta {beta}, loss.rr_lambda {rr_lambda}, "
            "expected both above 0: they are what is left out"
        )
    return [f"loss.beta=0,{beta:g}", f"loss.rr_lambda=0,{rr_lambda:g}", *arguments.grid]


def _show(done: list[tuple["Trial", dict[str, Any]]], out: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from remi_fast import files
    from remi_fast.sweep import mean_and_deviation

    tests: dict[str, list[dict[str, float]]] = {}
    for trial, result in done:
        tests.setdefault(trial.name, []).append(result["test"])
    rows = {
        name: {metric: mean_and_deviation([run[metric] for run in runs]) for metric in METRICS}
        for name, runs in tests.items()
    }
    files.write_json(out / "table.json", rows)
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("test", *METRICS, "seeds")
    for name, row in rows.items():
        cells = [f"{row[metric][0]:.4f} ± {row[metric][1]:.4f}" for metric in METRICS]
        table.add_row(name, *cells, str(len(tests[name])))
    Console().print(table)
    print(f"runs and table.json: {out}")
