"""Benchmark the loss, forward and backward: REMI's and plain sampled softmax by remi-fast, against
the published formula, autograd, torch.compile and other libraries."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from remi_fast.benchmark.published import NEGATIVES
from remi_fast.cli.bench import common

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.benchmark.loss_contestants import Size


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the arguments."""
    common.add_batch_size(parser)
    parser.add_argument(
        "--num-negatives",
        type=int,
        nargs="+",
        default=[],
        help=f"shared by the batch; one case each (default: {NEGATIVES} per sample)",
    )
    parser.add_argument(
        "--catalogue", type=int, help="use a whole catalogue of N items as the negatives instead"
    )
    parser.add_argument("--dim", type=int, default=64, help="dimensions of the vectors")
    parser.add_argument("--num-interests", type=int, default=4, help="interests per user")
    parser.add_argument("--beta", type=float, default=1.0, help="beta of REMI's loss")
    common.add_precision(parser)
    common.add_peers(
        parser,
        "peers to include; eager: the published and the autograd formula; all: also torch.compile, "
        "which compiles first, and the libraries that are installed",
        ("all", "eager", "none"),
    )
    common.add_run(parser, rounds=9, seconds=0.3)


run = common.runner("loss")


def check(arguments: Any) -> None:
    """Before anything is measured."""
    from remi_fast.benchmark.loss import check_memory
    from remi_fast.errors import ConfigError

    common.check(arguments, batch_size=1, dim=1, num_interests=1)
    if arguments.num_negatives and arguments.catalogue is not None:
        raise ConfigError("--num-negatives and --catalogue: got both, expected one")
    if arguments.num_negatives or arguments.catalogue is not None:
        given = "num_negatives" if arguments.num_negatives else "catalogue"
        common.check(arguments, **{given: 2})
    if not 0 <= arguments.beta < float("inf"):
        raise ConfigError(f"--beta: got {arguments.beta}, expected a finite number of at least 0")
    for precision in arguments.precision:
        for size in _sizes(arguments):
            check_memory(size, common.device_for(precision), arguments.peers)


def cases(arguments: Any) -> Iterator[common.Case]:
    """One for each size and precision."""
    from remi_fast.benchmark.loss import compare

    for size in _sizes(arguments):
        for precision in arguments.precision:
            yield compare(
                size,
                precision,
                common.device_for(precision),
                peers=arguments.peers,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
            )


def _sizes(arguments: Any) -> "list[Size]":
    from remi_fast.benchmark.loss_contestants import Size

    whole = arguments.catalogue is not None
    options = {"dim": arguments.dim, "interests": arguments.num_interests, "beta": arguments.beta}
    return [
        Size(batch, negatives, catalogue=whole, **options)
        for batch in arguments.batch_size
        for negatives in ([arguments.catalogue] if whole else arguments.num_negatives)
        or [NEGATIVES * batch]
    ]


def show(case: common.Case) -> None:
    """Print the table."""
    negatives = "items of a whole catalogue" if case["catalogue"] else "negatives"
    title = f"loss: batch {case['batch_size']:,}, {case['negatives']:,} {negatives}, "
    title += f"{case['interests']} interests of {case['dim']}, beta {case['beta']:g}, "
    title += f"{case['device']}, {case['precision']}"
    columns = {"ms": common.milliseconds, "against the first": common.ratio}
    columns["error"] = lambda row: f"{row['relative_error']:.0e}"
    columns["peak MiB"] = _peak
    if case["device"] == "cuda":
        columns["of floor (H100)"] = common.of_floor
        columns["graph"] = lambda row: "yes" if row["captured"] else "no"
    common.show(title, case, columns)


def _peak(row: common.Case) -> str:
    return "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.1f}"
