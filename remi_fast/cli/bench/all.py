"""Run all parts of `remi-fast bench`: steps, loss, batches, update, exact search. The options below
apply to each part that has them; everything else is the part's default."""

from argparse import ArgumentParser as StandardParser
from typing import TYPE_CHECKING, Any

from remi_fast.cli.bench import common

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PARTS = ("step", "loss", "loader", "update", "eval")


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the arguments."""
    common.add_sizes(parser)
    common.add_peers(parser, "peers of each part to include")
    common.add_run(parser, rounds=None, seconds=None)


def run(arguments: Any) -> int:
    """Measure each case of each part, print and write."""
    common.run({part: _of_part(part, arguments) for part in PARTS}, arguments)
    return 0


def _of_part(part: str, arguments: Any) -> Any:
    """The defaults of the part, but for what is given."""
    parser = StandardParser()
    common.module_of(part).add_arguments(parser)
    theirs = parser.parse_args([])
    for name in vars(theirs):
        if getattr(arguments, name, None) is not None:
            setattr(theirs, name, getattr(arguments, name))
    return theirs
