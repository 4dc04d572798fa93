"""Train several settings of the loss with several seeds on one dataset; print and save the test
metrics. A sweep (`remi-fast sweep`) of pairs.

    python -m bench.quality demo --out runs/demo-quality
    python -m bench.quality DATA --out RUNS --settings 0,0 1,100 --seeds 1 2 3 -- --train.steps=8000
    python -m bench.quality DATA --out RUNS --models mind comirec-dr

A setting is beta,rr_lambda; 0,0 is the plain sampled softmax. Each is trained with each model.
What follows `--` goes to `remi-fast train`. Runs that are there already are not repeated.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from bench import results
from remi_fast.cli import train
from remi_fast.config import Config, config_from_namespace, parse
from remi_fast.sweep import SweepFolder, check, mean_and_deviation, train_all

SHOWN = ("recall@20", "hit_rate@20", "ndcg@20", "recall@50")


def common(data: str, options: list[str]) -> Config:
    """What `remi-fast train DATA OPTIONS` would train with."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    train.add_arguments(parser)
    words = train.arrange([data, "--out", "unused", *options], parser)
    return config_from_namespace(parse(parser, words))


def main() -> None:
    """Train, print a table of means and standard deviations, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="prepared folder, or demo")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--settings", nargs="+", default=["0,0", "1,100"])
    parser.add_argument("--models", nargs="+", default=[], help="model.name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    arguments, options = parser.parse_args(words[:cut]), words[cut + 1 :]
    config = common(arguments.data, options)
    names = ("loss.beta", "loss.rr_lambda")
    settings = [dict(zip(names, s.split(","), strict=True)) for s in arguments.settings]
    if arguments.models:
        settings = [s | {"model.name": name} for name in arguments.models for s in settings]
    check(config, settings)
    folder = SweepFolder(arguments.out, config, arguments.data)
    data = folder.prepared(arguments.data)
    runs: list[dict[str, Any]] = []
    tests: dict[str, list[dict[str, float]]] = {}
    for trial, result in train_all(folder, folder.trials(settings, arguments.seeds), data, jobs=1):
        if isinstance(result, str):
            raise SystemExit(f"{trial.name} seed {trial.seed}: {result}")
        setting = ",".join(value for _, value in trial.settings)
        tests.setdefault(setting, []).append(result["test"])
        runs.append({"setting": setting, "seed": trial.seed, **result})
    print(f"{'beta,lambda':<20}" + "".join(f"{name:>20}" for name in SHOWN) + "   (test)")
    for setting, found in tests.items():
        row = f"{setting:<20}"
        for name in SHOWN:
            mean, deviation = mean_and_deviation([test[name] for test in found])
            row += f"{mean:>12.4f} ± {deviation:.4f}"
        print(row)
    if arguments.save:
        name = Path(arguments.data).name
        print(results.save(arguments.save, {"data": name, "options": options, "runs": runs}))


if __name__ == "__main__":
    main()
