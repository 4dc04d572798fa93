"""Benchmark whole training steps, and what REMI costs over plain sampled softmax: remi-fast with
each part of REMI, the published recipe and a repaired one, in turns, on generated data."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.cli.bench import common

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.benchmark.steps import Data
    from remi_fast.config import Config

PHASE_STEPS = 200
NOISY = 1.5  # a round's ratio by the median, or the other way round


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the arguments."""
    common.add_sizes(parser)
    common.add_precision(parser)
    common.add_peers(
        parser,
        "peers to include; eager: the published recipe and the repaired one; all: also the "
        "repaired one under torch.compile, which compiles first",
        ("all", "eager", "none"),
    )
    parser.add_argument("--users", type=int, default=100_000, help="users of the generated data")
    common.add_run(parser, rounds=9, seconds=1.5)
    parser.add_argument(
        "--picture", metavar="FILE", help="also draw it as this .png file (needs matplotlib)"
    )


def run(arguments: Any) -> int:
    """Measure each case, print and write."""
    draw = _drawing() if arguments.picture is not None else None
    cases = common.run({"step": arguments}, arguments)
    if draw is not None:
        draw(cases, Path(arguments.picture))
    return 0


def check(arguments: Any) -> None:
    """Before anything is measured."""
    from remi_fast.benchmark.steps import check_memory

    common.check(arguments, batch_size=1, num_items=2)
    common.check_users(arguments)
    for precision in arguments.precision:
        common.device_for(precision)
    for items in arguments.num_items:
        check_memory(items, arguments.peers)


def cases(arguments: Any) -> Iterator[common.Case]:
    """One for each catalogue, batch size and precision."""
    from remi_fast.benchmark.steps import Data, settings

    configs = [settings(b, p) for b in arguments.batch_size for p in arguments.precision]
    for items in arguments.num_items:
        data = Data(items, arguments.users)
        for config in configs:
            yield _case(data, config, arguments)


def _drawing() -> Any:
    from remi_fast import extras

    extras.load("matplotlib", "report", "--picture")
    from remi_fast.benchmark.picture import draw

    return draw


def _case(data: "Data", config: "Config", arguments: Any) -> dict[str, Any]:
    from remi_fast.benchmark.phases import phases
    from remi_fast.benchmark.steps import compare

    case = compare(
        data,
        config,
        peers=arguments.peers,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    if case["device"] == "cpu":  # on a GPU the kernels' times say it
        case["phases_ms"] = phases(data, config, PHASE_STEPS)
    return case


def show(case: common.Case) -> None:
    """Print the table, the cost of REMI, the rows' traffic, and what a step is made of."""
    from rich.console import Console

    title = f"batch {case['batch_size']:,}, {case['items']:,} items"
    title += f", {case['negatives']:,} negatives, {case['device']}, {case['precision']}"
    columns = {"ms a step": common.milliseconds}
    columns["samples/s"] = lambda row: f"{row['samples_per_s']:,}"
    columns |= {"against the first": common.ratio, "rows' traffic": common.traffic}
    if case["device"] == "cuda":
        columns["kernels"] = lambda row: f"{row.get('kernels', '?')}"
        columns["peak MiB"] = lambda row: f"{row['peak_bytes'] / 2**20:,.0f}"
        columns["reserved MiB"] = lambda row: f"{row['reserved_bytes'] / 2**20:,.0f}"
    common.show(title, case, columns)
    console = Console()
    cost, moved = case["remi_by_plain"], case["traffic"]
    console.print(
        f"REMI takes {cost['ratio']:.2f} times as long as plain sampled softmax "
        f"({cost['lowest']:.2f} to {cost['highest']:.2f}, by round)"
    )
    if max(cost["highest"] / cost["ratio"], cost["ratio"] / cost["lowest"]) > NOISY:
        console.print(
            f"The rounds differ by more than a factor of {NOISY}: too noisy for a conclusion; "
            "measure again on an idle machine, or with more --rounds"
        )
    console.print(
        f"rows' traffic: {moved['bytes'] / 1e6:.1f} MB of rows, moments and gradients, at the "
        f"{moved['bytes_per_s'] / 1e9:,.0f} GB/s of a copy here {moved['ms']:.3g} ms, "
        "by the step's time"
    )
    if case["device"] == "cuda":
        first = next(iter(case["contestants"].values()))
        parts = ", ".join(f"{name} {us:.1f}" for name, us in first.get("kernel_us", {}).items())
        console.print(f"microseconds of a step with REMI, by kernel: {parts}")
    else:
        phases = case["phases_ms"]
        parts = ", ".join(f"{name} {ms:.3f}" for name, ms in phases.items())
        console.print(
            f"milliseconds of a step with REMI, timed in a run of its own: {parts}; "
            f"{sum(phases.values()):.3f} in all"
        )
