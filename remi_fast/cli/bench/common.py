"""What the parts of `remi-fast bench` share: options and their checks, the run, the table."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from jsonargparse import ArgumentParser

Case = dict[str, Any]
NUM_ITEMS = 368_000
SUFFIXES = {"out": ".json", "picture": ".png"}  # of the files to write


def add_sizes(parser: "ArgumentParser") -> None:
    """--batch-size and --num-items."""
    add_batch_size(parser)
    add_num_items(parser)


def add_num_items(parser: "ArgumentParser") -> None:
    """--num-items."""
    parser.add_argument(
        "--num-items",
        type=int,
        nargs="+",
        default=[NUM_ITEMS],
        help="rows of the item table, padding included; one case each",
    )


def add_batch_size(parser: "ArgumentParser") -> None:
    """--batch-size."""
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[128], help="samples per step; one case each"
    )


def add_precision(parser: "ArgumentParser") -> None:
    """--precision."""
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16"),
        nargs="+",
        default=["fp32"],
        help="of everyone's matrix products; one case each (tf32 and bf16: GPU only)",
    )


def add_peers(
    parser: "ArgumentParser", text: str, choices: Sequence[str] = ("all", "none")
) -> None:
    """--peers."""
    parser.add_argument("--peers", choices=choices, default="all", help=text)


def add_run(parser: "ArgumentParser", rounds: int | None, seconds: float | None) -> None:
    """How long, with how many threads, and where to."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns per contestant")
    parser.add_argument("--seconds", type=float, default=seconds, help="seconds per turn")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: one per core")
    parser.add_argument("--out", metavar="FILE", help="also write the result to this .json file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def check(arguments: Any, **least: int) -> None:
    """The options that all parts have, and the least values of others."""
    from remi_fast import files
    from remi_fast.errors import ConfigError, StorageError

    for name, smallest in ({"rounds": 1} | least).items():
        given = getattr(arguments, name)
        if min(given if isinstance(given, list) else [given]) < smallest:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: got {given}, expected at least {smallest}")
    if not 0 < arguments.seconds < 3600:
        raise ConfigError(f"--seconds: got {arguments.seconds}, expected more than 0, below 3600")
    if not 0 <= arguments.threads <= 1024:
        raise ConfigError(f"--threads: got {arguments.threads}, expected 0 to 1024")
    for name, suffix in SUFFIXES.items():
        given = getattr(arguments, name, None)
        if given is None:
            continue
        path = Path(given)
        if path.suffix != suffix:
            raise ConfigError(f"--{name}: got {given!r}, expected a name that ends in {suffix}")
        if not path.parent.is_dir():  # known before minutes are spent
            raise StorageError(f"{path.parent}: no such folder, expected one for --{name}")
        files.check_writable(path)


def check_users(arguments: Any) -> None:
    """--users, of whom the published iterator draws a batch."""
    from remi_fast.errors import ConfigError

    check(arguments, users=1)
    if arguments.peers != "none" and arguments.users < max(arguments.batch_size):
        raise ConfigError(
            f"--users: got {arguments.users}, expected at least the batch size, "
            f"{max(arguments.batch_size)}: the published recipe draws different users"
        )


def device_for(precision: str = "fp32") -> "torch.device":
    """Where `remi-fast train` would train. Raises ConfigError for a precision it has not there."""
    from remi_fast.config import Config, TrainConfig
    from remi_fast.errors import ConfigError
    from remi_fast.training.placement import training_device

    train = TrainConfig(precision=precision)  # type: ignore[arg-type]
    try:
        return training_device(Config(train=train))
    except ConfigError as error:  # it has the option of `train`
        raise ConfigError(str(error).replace("train.precision", "--precision")) from None


def module_of(part: str) -> ModuleType:
    """Where the part is."""
    return import_module(f"remi_fast.cli.bench.{part}")


def measured(parts: Mapping[str, Any]) -> Iterator[Case]:
    """The cases of the parts, each with its arguments; all arguments are checked first."""
    from remi_fast.training.trainer import set_threads

    for part, arguments in parts.items():
        module_of(part).check(arguments)
    for part, arguments in parts.items():
        set_threads(arguments.threads)
        yield from module_of(part).cases(arguments)


def run(parts: Mapping[str, Any], arguments: Any) -> list[Case]:
    """Measure the parts, each with its arguments; print each case, write all after each."""
    from remi_fast import files
    from remi_fast.training.run_folder import environment

    cases: list[Case] = []
    result = {"environment": environment(), "threads": arguments.threads, "cases": cases}
    for case in measured(parts):
        cases.append(case)
        if not arguments.json:
            print(end="" if len(cases) == 1 else "\n")
            module_of(case["part"]).show(case)
        if arguments.out is not None:
            files.write_json(Path(arguments.out), result)
    if arguments.json:
        print(json.dumps(result))
    return cases


def runner(part: str) -> Callable[[Any], int]:
    """The `run` of a part that does no more than to measure each case, print and write."""

    def run_part(arguments: Any) -> int:
        run({part: arguments}, arguments)
        return 0

    return run_part


def show(title: str, case: Case, columns: Mapping[str, Callable[[Case], str]]) -> None:
    """Print a row for each contestant, then who was skipped."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", title=title)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right")
    for name, row in case["contestants"].items():
        table.add_row(name, *(cell(row) for cell in columns.values()))
    console = Console()
    console.print(table)
    for name, reason in case["cannot"].items():
        console.print(f"skipped: {name} ({reason})", highlight=False, markup=False)


def milliseconds(row: Case) -> str:
    """Four digits, at least three behind the point of small ones."""
    return f"{row['ms']:,.3f}" if row["ms"] < 1000 else f"{row['ms']:,.0f}"


def ratio(row: Case) -> str:
    """Time by that of the first: median and range over the rounds."""
    from remi_fast.benchmark.turns import times

    middle, low, high = map(times, (row["ratio"], *row["ratio_range"]))
    return f"{middle} ({low} to {high})"


def traffic(row: Case) -> str:
    """The time of the rows' traffic at copy speed, by the step's time."""
    return f"{row['traffic_by_time']:.1%}"


def of_floor(row: Case) -> str:
    """The least time by the time taken."""
    return f"{row['share_of_floor']:.1%}" if "share_of_floor" in row else ""
