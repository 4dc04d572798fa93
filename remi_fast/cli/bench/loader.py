"""Benchmark training batches: from the C++ loader, with a GPU also drawn there, against torch's
DataLoader over vectorised NumPy and the published iterator."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from remi_fast.cli.bench import common

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the arguments."""
    common.add_batch_size(parser)
    parser.add_argument("--users", type=int, default=100_000, help="users of the generated data")
    common.add_peers(parser, "peers to include")
    common.add_run(parser, rounds=9, seconds=0.3)


run = common.runner("loader")


def check(arguments: Any) -> None:
    """Before anything is measured."""
    from remi_fast.benchmark.loader import check_memory

    common.check(arguments, batch_size=1)
    common.check_users(arguments)
    check_memory(arguments.users)


def cases(arguments: Any) -> Iterator[common.Case]:
    """One for each batch size."""
    from remi_fast.benchmark.loader import compare
    from remi_fast.benchmark.steps import Data

    data = Data(common.NUM_ITEMS, arguments.users)
    for batch_size in arguments.batch_size:
        yield compare(
            data,
            batch_size,
            common.device_for(),
            peers=arguments.peers,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
        )


def show(case: common.Case) -> None:
    """Print the table."""
    title = f"loader: batch {case['batch_size']:,}, {case['interactions']:,} interactions of "
    title += f"{case['users']:,} users"
    columns = {"ms a batch": common.milliseconds}
    columns["samples/s"] = lambda row: f"{row['samples_per_s']:,}"
    columns["against the first"] = common.ratio
    common.show(title, case, columns)
