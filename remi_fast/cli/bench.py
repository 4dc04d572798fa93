"""How fast training steps are on this machine, and what REMI costs over plain sampled softmax: all
parts of REMI, the published recipe and that repaired, in turns, in one run, on generated data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from remi_fast.benchmark.steps import Data
    from remi_fast.config import Config

PHASE_STEPS = 200


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[128], help="samples a step; one case for each"
    )
    parser.add_argument(
        "--num-items",
        type=int,
        nargs="+",
        default=[368_000],
        help="rows of the item table, padding included; one case for each",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16"),
        nargs="+",
        default=["fp32"],
        help="of matrix products, everyone's; one case for each (tf32 and bf16 on a GPU only)",
    )
    parser.add_argument(
        "--peers",
        choices=("all", "eager", "none"),
        default="all",
        help="what else takes part: eager PyTorch (the published recipe, and that repaired), all: "
        "also the repaired one by torch.compile, which compiles first",
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn")
    parser.add_argument("--users", type=int, default=100_000, help="users of the generated data")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is one a core")
    parser.add_argument("--out", metavar="FILE", help="write the result to this .json, too")
    parser.add_argument("--picture", metavar="FILE", help="draw it as a .png (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: Any) -> int:
    """Measure each case, print and write."""
    draw = _drawing() if arguments.picture is not None else None
    from remi_fast import files
    from remi_fast.training.run_folder import environment

    cases = []
    for case in measured(arguments):
        cases.append(case)
        if not arguments.json:
            _show(case)
    result = {"environment": environment(), "threads": arguments.threads, "cases": cases}
    if arguments.json:
        print(json.dumps(result))
    if arguments.out is not None:
        files.write_json(Path(arguments.out), result)
    if draw is not None:
        draw(cases, Path(arguments.picture))
    return 0


def measured(arguments: Any) -> Iterator[dict[str, Any]]:
    """Check the arguments, then measure one case after the other."""
    _check(arguments)
    from remi_fast.benchmark.steps import Data, check_memory, settings
    from remi_fast.training.placement import training_device
    from remi_fast.training.trainer import set_threads

    set_threads(arguments.threads)
    configs = [settings(b, p) for b in arguments.batch_size for p in arguments.precision]
    for config in configs:
        training_device(config)  # what it cannot train it says
    for items in arguments.num_items:
        check_memory(items, arguments.peers)
    for items in arguments.num_items:
        data = Data(items, arguments.users)
        for config in configs:
            yield _case(data, config, arguments)


def _check(arguments: Any) -> None:
    from remi_fast.errors import ConfigError, StorageError

    for name, least in (("batch_size", 1), ("num_items", 2), ("rounds", 1), ("users", 1)):
        given = getattr(arguments, name)
        if min(given if isinstance(given, list) else [given]) < least:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: got {given}, expected at least {least}")
    if not 0 < arguments.seconds < 3600:
        raise ConfigError(f"--seconds: got {arguments.seconds}, expected more than 0, below 3600")
    if not 0 <= arguments.threads <= 1024:
        raise ConfigError(f"--threads: got {arguments.threads}, expected 0 to 1024")
    if arguments.peers != "none" and arguments.users < max(arguments.batch_size):
        raise ConfigError(
            f"--users: got {arguments.users}, expected at least the batch size, "
            f"{max(arguments.batch_size)}: the published recipe draws different users"
        )
    for name, suffix in (("out", ".json"), ("picture", ".png")):
        given = getattr(arguments, name)
        if given is None:
            continue
        path = Path(given)
        if path.suffix != suffix:
            raise ConfigError(f"--{name}: got {given!r}, expected a name that ends in {suffix}")
        if not path.parent.is_dir():  # known before minutes are spent
            raise StorageError(f"{path.parent}: no such folder, expected one for --{name}")


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


def _show(case: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"batch {case['batch_size']:,}, {case['items']:,} items"
    title += f", {case['negatives']:,} negatives, {case['device']}, {case['precision']}"
    on_gpu = ["kernels", "peak MiB"] if case["device"] == "cuda" else []
    columns = ["ms a step", "samples/s", "against the first", "of floor", *on_gpu]
    table = Table("", title=title)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for name, row in case["contestants"].items():
        low, high = row["ratio_range"]
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        cells = [f"{row['ms']:.3f}", f"{row['samples_per_s']:,}", ratio]
        cells.append(f"{row['share_of_floor']:.1%}")
        if on_gpu:
            cells += [f"{row.get('kernels', '?')}", f"{row['peak_bytes'] / 2**20:,.0f}"]
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    for name, reason in case["cannot"].items():
        console.print(f"{name}: {reason}")
    cost, least = case["remi_by_plain"], case["floor"]
    console.print(
        f"REMI takes {cost['ratio']:.2f} times as long as plain sampled softmax "
        f"({cost['lowest']:.2f} to {cost['highest']:.2f}, by round)"
    )
    console.print(
        f"floor: {least['bytes'] / 1e6:.1f} MB of rows, moments and gradients at the "
        f"{least['bytes_per_s'] / 1e9:,.0f} GB/s of a copy here, {least['ms']:.3g} ms"
    )
    if on_gpu:
        first = next(iter(case["contestants"].values()))
        parts = ", ".join(f"{name} {us:.1f}" for name, us in first.get("kernel_us", {}).items())
        console.print(f"microseconds of a step with REMI, by kernel: {parts}")
    else:
        parts = ", ".join(f"{name} {ms:.3f}" for name, ms in case["phases_ms"].items())
        console.print(f"milliseconds of a step with REMI: {parts}")
