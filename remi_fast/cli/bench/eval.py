"""Benchmark exact search, which evaluation consists of: each user's best items over all of their
interests, against torch's matmul and topk, faiss, and the matrix product alone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from remi_fast.cli.bench import common

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the arguments."""
    parser.add_argument("--users", type=int, default=64, help="users per call")
    common.add_num_items(parser)
    parser.add_argument("--num-interests", type=int, default=4, help="interests per user")
    parser.add_argument("--dim", type=int, default=64, help="dimensions of the vectors")
    parser.add_argument("--k", type=int, default=50, help="items per user")
    common.add_peers(parser, "peers to include")
    common.add_run(parser, rounds=5, seconds=0.3)


run = common.runner("eval")


def check(arguments: Any) -> None:
    """Before anything is measured."""
    from remi_fast.benchmark.search import check_memory

    common.check(arguments, users=1, num_items=2, num_interests=1, dim=1, k=1)
    common.check(arguments, num_items=arguments.k + 1)
    for items in arguments.num_items:
        sizes = arguments.users, items, arguments.num_interests, arguments.dim
        check_memory(*sizes, common.device_for())


def cases(arguments: Any) -> Iterator[common.Case]:
    """One for each catalogue."""
    from remi_fast.benchmark.search import compare, generated

    for items in arguments.num_items:
        sizes = arguments.users, items, arguments.num_interests, arguments.dim
        interests, table = generated(*sizes)
        yield compare(
            interests.to(common.device_for()),
            table.to(common.device_for()),
            arguments.k,
            peers=arguments.peers,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
        )


def show(case: common.Case) -> None:
    """Print the table."""
    title = f"eval: {case['users']:,} users, {case['interests']} interests of {case['dim']}, "
    title += f"top {case['k']} of {case['items']:,} items, {case['device']}"
    columns = {"ms": common.milliseconds}
    columns["users/s"] = lambda row: f"{row['users_per_s']:,}"
    columns["against the first"] = common.ratio
    columns["other ids"] = _other_ids
    common.show(title, case, columns)


def _other_ids(row: common.Case) -> str:
    return f"{row['ids_that_differ']:.2%}" if "ids_that_differ" in row else ""
