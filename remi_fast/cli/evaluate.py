"""Evaluate a run's best model over the whole catalogue by exact search: recall, hit rate and ndcg;
optionally by group, with list metrics, with more diverse lists, or against another run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.data.dataset import Dataset
    from remi_fast.models.recommender import MultiInterestModel
    from remi_fast.retrieval.categories import Categories


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
        help="cut-offs; larger than the catalogue: every item",
    )
    parser.add_argument(
        "--exclude-seen", action="store_true", help="leave out the items of the history"
    )
    parser.add_argument(
        "--all-metrics", action="store_true", help="also coverage, Gini, novelty and diversity"
    )
    parser.add_argument(
        "--groups", action="store_true", help="also by history length and target popularity"
    )
    parser.add_argument(
        "--diversity",
        type=float,
        nargs="+",
        metavar="C",
        help="also with lists diversified by each of these coefficients (0: not at all)",
    )
    parser.add_argument(
        "--categories",
        metavar="FILE",
        help="file of item_id and category, for diversity (default: clusters of the items)",
    )
    parser.add_argument(
        "--against", metavar="RUN", help="report differences from this run (same data) instead"
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def run(arguments: Any) -> int:
    """Evaluate and print."""
    from remi_fast.cli.tables import metrics_table
    from remi_fast.retrieval.evaluate import evaluate
    from remi_fast.training.run_folder import RunFolder

    _check(arguments)
    folder = RunFolder.open(Path(arguments.run))
    if arguments.against is not None:
        return _against(folder, RunFolder.open(Path(arguments.against)), arguments)
    model, dataset = _open(folder)
    options = {"ks": tuple(arguments.k), "exclude_seen": arguments.exclude_seen}
    if arguments.all_metrics or arguments.groups or arguments.diversity is not None:
        return _in_detail(model, dataset, arguments, options)
    metrics = evaluate(model, dataset, arguments.split, **options)
    if arguments.json:
        print(json.dumps({"split": arguments.split, **metrics}))
    else:
        metrics_table({arguments.split: metrics})
    return 0


def _check(arguments: Any) -> None:
    from remi_fast.errors import ConfigError
    from remi_fast.retrieval.diversity import check_coefficient

    if min(arguments.k) < 1:
        raise ConfigError(f"--k: got {arguments.k}, expected cut-offs >= 1")
    for value in arguments.diversity or ():
        try:
            check_coefficient(value)
        except ValueError as error:
            raise ConfigError(f"--{error}") from None
    others = arguments.all_metrics or arguments.groups or arguments.diversity is not None
    if arguments.against is not None and (others or arguments.categories is not None):
        raise ConfigError(
            "--against: got --all-metrics, --groups, --diversity or --categories beside it, "
            "expected none of them: it compares recall, hit_rate and ndcg"
        )
    needed = arguments.all_metrics or arguments.diversity is not None
    if arguments.categories is not None and not needed:
        raise ConfigError(
            f"--categories: got {arguments.categories!r}, expected --diversity or --all-metrics "
            "beside it, which use it"
        )


def _open(folder: Any) -> "tuple[MultiInterestModel, Dataset]":
    """The best model of a run, and its data."""
    from remi_fast.training.trainer import load_model, set_threads

    config = folder.config()
    set_threads(config.train.threads)
    dataset = folder.dataset()
    return load_model(folder, config, dataset.num_items), dataset


def _categories(
    model: "MultiInterestModel", dataset: "Dataset", arguments: Any
) -> "Categories | None":
    from remi_fast.retrieval.categories import cluster, read_categories

    if arguments.categories is not None:
        return read_categories(Path(arguments.categories), dataset.item_table)
    if arguments.diversity is not None or arguments.all_metrics:
        return cluster(model)
    return None


def _in_detail(
    model: "MultiInterestModel", dataset: "Dataset", arguments: Any, options: dict[str, Any]
) -> int:
    from remi_fast.cli.tables import metrics_table
    from remi_fast.retrieval.details import evaluate_in_detail
    from remi_fast.training.frequencies import training_counts

    coefficients = arguments.diversity or []
    found = evaluate_in_detail(
        model,
        dataset,
        arguments.split,
        training_counts=training_counts(dataset).numpy(),
        categories=_categories(model, dataset, arguments),
        coefficients=coefficients,
        **options,
    )
    if not arguments.all_metrics:
        plain = ("recall", "hit_rate", "ndcg", "users")
        found["metrics"] = {
            name: value for name, value in found["metrics"].items() if name.startswith(plain)
        }
    if arguments.json:
        shown: dict[str, Any] = {"split": arguments.split, **found["metrics"]}
        shown |= {"groups": found["groups"]} if arguments.groups else {}
        shown |= {"diversity": found["diversity"]} if coefficients else {}
        print(json.dumps(shown))
        return 0
    metrics_table({arguments.split: found["metrics"]})
    if arguments.groups:
        metrics_table(found["groups"]["history"], "users by length of history")
        metrics_table(found["groups"]["popularity"], "targets by popularity of the item")
    if coefficients:
        columns = {f"{row.pop('coefficient'):g}": row for row in found["diversity"]}
        metrics_table(columns, "lists by coefficient of diversity")
    return 0


def _against(first: Any, second: Any, arguments: Any) -> int:
    """Compare two runs, user by user."""
    from remi_fast.errors import DataError
    from remi_fast.retrieval.compare import CONFIDENCE, RESAMPLES, compare
    from remi_fast.retrieval.details import per_user

    checksums = [folder.data()[1] for folder in (first, second)]
    if checksums[0] != checksums[1]:
        raise DataError(
            f"{second.path}: trained on other data: got checksum {checksums[1]}, expected "
            f"{checksums[0]}, that of {first.path}"
        )
    values = []
    for folder in (first, second):
        model, dataset = _open(folder)
        ks, exclude_seen = tuple(arguments.k), arguments.exclude_seen
        values.append(per_user(model, dataset, arguments.split, ks=ks, exclude_seen=exclude_seen))
    differences = compare(*values)
    users = len(next(iter(values[0].values())))
    same = all((a == b).all() for a, b in zip(values[0].values(), values[1].values(), strict=True))
    if arguments.json:
        shown = {name: difference._asdict() for name, difference in differences.items()}
        head = {"split": arguments.split, "against": arguments.against, "users": users}
        settings = {"identical": same, "resamples": RESAMPLES, "confidence": CONFIDENCE}
        print(json.dumps(head | settings | shown))
        return 0
    from remi_fast.cli.tables import differences_table

    differences_table(differences, first.path.name, second.path.name)
    print(
        f"{arguments.split}: {users:,} users; 95 % intervals and two-sided p by "
        f"{RESAMPLES:,} paired bootstrap resamples"
        + ("; the runs are identical for every user" if same else "")
    )
    return 0
