"""Benchmark the update of the item table, step by step: gather, catch-up and update by
DeferredAdam, in the state a long training leaves, against torch's SparseAdam and dense Adam.
Without peers, catalogue sizes are compared with one another instead."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from remi_fast.cli.bench import common

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.benchmark.update_contestants import Update


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the arguments."""
    common.add_sizes(parser)
    parser.add_argument(
        "--ids",
        choices=("uniform", "zipf"),
        nargs="+",
        default=["uniform"],
        help="how items are drawn; one case each",
    )
    common.add_peers(
        parser,
        "peers to include; none: one case per batch size, comparing the catalogues",
    )
    common.add_run(parser, rounds=9, seconds=0.3)


run = common.runner("update")


def check(arguments: Any) -> None:
    """Before anything is measured."""
    from remi_fast.benchmark.update import check_memory

    common.check(arguments, batch_size=1, num_items=2)
    for updates in _updates(arguments):
        check_memory(updates, arguments.peers)


def cases(arguments: Any) -> Iterator[common.Case]:
    """One for each batch size and, with peers, catalogue and kind of ids."""
    from remi_fast.benchmark.update import beside_peers, by_catalogue

    for updates in _updates(arguments):
        if arguments.peers == "none":
            yield by_catalogue(updates, arguments.rounds, arguments.seconds)
        else:
            yield beside_peers(updates[0], arguments.rounds, arguments.seconds)


def _updates(arguments: Any) -> "list[list[Update]]":
    """Those that are compared with one another."""
    from remi_fast.benchmark.update_contestants import Update

    device = common.device_for().type
    found = [
        [
            Update(items, b, ids, device)
            for items, ids in product(arguments.num_items, arguments.ids)
        ]
        for b in arguments.batch_size
    ]
    if arguments.peers == "none":
        return found
    return [[update] for updates in found for update in updates]


def show(case: common.Case) -> None:
    """Print the table."""
    title = f"update: batch {case['batch_size']:,} ({case['rows']:,} rows), "
    if isinstance(case["items"], int):
        title += f"{case['items']:,} items, ids {case['ids']}, "
    columns = {"ms a step": common.milliseconds}
    columns["rows/s"] = lambda row: f"{row['rows_per_s']:,}"
    columns |= {"against the first": common.ratio, "rows' traffic": common.traffic}
    if case["device"] == "cuda":
        columns["graph"] = lambda row: "yes" if row["captured"] else "not captured"
    common.show(title + case["device"], case, columns)
