"""Recall, hit rate and ndcg of a run's best model over the whole catalogue (exact search)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run folder made by `remi-fast train`")
    parser.add_argument(
        "--split", choices=("valid", "test"), default="test", help="users to evaluate on"
    )
    parser.add_argument(
        "--k",
        type=int,
        nargs="+",
        default=[20, 50],
        help="cut-offs (all items at most)",
    )
    parser.add_argument("--exclude-seen", action="store_true", help="leave history items out")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def run(arguments: Any) -> int:
    """Evaluate and print."""
    from remi_fast.cli.tables import metrics_table
    from remi_fast.errors import ConfigError
    from remi_fast.retrieval.evaluate import evaluate
    from remi_fast.training.run_folder import RunFolder
    from remi_fast.training.trainer import load_model, set_threads

    if min(arguments.k) < 1:
        raise ConfigError(f"--k: got {arguments.k}, expected cut-offs >= 1")
    folder = RunFolder.open(Path(arguments.run))
    config = folder.config()
    set_threads(config.train.threads)
    dataset = folder.dataset()
    model = load_model(folder, config, dataset.num_items)
    metrics = evaluate(
        model,
        model,
        dataset,
        arguments.split,
        ks=tuple(arguments.k),
        exclude_seen=arguments.exclude_seen,
    )
    if arguments.json:
        print(json.dumps({"split": arguments.split, **metrics}))
    else:
        metrics_table({arguments.split: metrics})
    return 0
