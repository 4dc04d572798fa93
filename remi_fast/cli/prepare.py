"""Make a dataset folder from raw interactions: .parquet, .csv(.gz), .tsv(.gz), .jsonl(.gz),
RecBole .inter, or a folder of *_train.txt, *_valid.txt and *_test.txt as ComiRec publishes them."""

import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

logger = logging.getLogger(__name__)


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument("sources", nargs="+", help="files of one format, or one folder")
    parser.add_argument("--out", required=True, help="dataset folder to make")
    parser.add_argument("--user-col", help="column of user ids (default: by its name)")
    parser.add_argument("--item-col", help="column of item ids (default: by its name)")
    parser.add_argument(
        "--time-col", help="column of times (default: by its name; if there is none, row order)"
    )
    parser.add_argument(
        "--filter",
        choices=("one-pass", "k-core", "none"),
        default="one-pass",
        help="drop rare items, then rare users: once (as published), until stable, or never",
    )
    parser.add_argument("--min-item", type=int, default=5, help="minimum interactions per item")
    parser.add_argument("--min-user", type=int, default=5, help="minimum interactions per user")
    parser.add_argument(
        "--split",
        choices=("users", "leave-one-out", "temporal"),
        default="users",
        help="80/10/10 of the users (as published), each user's last items, or two points in time",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the user shuffle")
    parser.add_argument("--json", action="store_true", help="print the manifest's numbers as JSON")


def run(arguments: Any) -> int:
    """Prepare, then print a summary."""
    from remi_fast.data.prepare import PrepareSettings, prepare

    settings = PrepareSettings(
        user_col=arguments.user_col,
        item_col=arguments.item_col,
        time_col=arguments.time_col,
        filter=arguments.filter,
        min_item=arguments.min_item,
        min_user=arguments.min_user,
        split=arguments.split,
        seed=arguments.seed,
    )
    manifest = prepare(arguments.sources, arguments.out, settings).manifest
    for name in ("valid", "test"):
        if not manifest["summary"]["split"][name]["users"]:
            logger.warning(
                "%s: the %s split has no users, and `remi-fast train` needs some; "
                "prepare more data, or with another --split",
                arguments.out,
                name,
            )
    if arguments.json:
        print(json.dumps({name: manifest[name] for name in ("counts", "settings", "summary")}))
    else:
        _print_summary(manifest, arguments.out)
    return 0


def _print_summary(manifest: dict[str, Any], out: str) -> None:
    from rich.console import Console
    from rich.table import Table

    summary, counts = manifest["summary"], manifest["counts"]
    columns = ", ".join(f"{role} {name!r}" for role, name in summary["columns"].items() if name)
    order = "" if summary["columns"]["time"] else "; a user's interactions: in file order"
    print(f"columns: {columns}{order}")
    steps = Table("filter", "users", "items", "interactions", "dropped")
    for step in summary["filter"]:
        numbers = (step[n] for n in ("users", "items", "interactions", "dropped"))
        steps.add_row(step["name"], *(f"{n:,}" for n in numbers))
    Console().print(steps)
    lengths = ", ".join(f"{name} {value:g}" for name, value in summary["lengths"].items())
    print(f"interactions of a user: {lengths}")
    for name, part in summary["split"].items():
        what = "items to train on" if name == "train" else "targets"
        print(f"{name:<6}{part['users']:>12,} users {part['positions']:>14,} {what}")
    skipped = {name: count for name, count in summary["skipped_users"].items() if count}
    if skipped:
        counts_by_split = ", ".join(f"{name} {count:,}" for name, count in skipped.items())
        print(f"users left out of a split for lack of history: {counts_by_split}")
    print(
        f"{out}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions"
    )
