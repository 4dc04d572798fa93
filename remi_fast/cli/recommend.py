"""Recommend items for histories of known or new users: raw ids in, raw ids out. Unknown items are
ignored; users without any known item get no recommendations, and their number is reported."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.errors import ConfigError, RemiFastError

if TYPE_CHECKING:
    import polars as pl
    from jsonargparse import ArgumentParser

    from remi_fast.data.readers import ColumnNames
    from remi_fast.retrieval.recommend import Recommender, Request
    from remi_fast.training.run_folder import RunFolder

FORMATS = (".parquet", ".csv", ".jsonl")


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run folder made by `remi-fast train`")
    parser.add_argument(
        "--histories", help="file with columns of users, items and, unless in order, times"
    )
    parser.add_argument(
        "--sample",
        type=int,
        help="instead of --histories: the first N test users of the run's data",
    )
    parser.add_argument(
        "--user-col", help="column of user ids in --histories (default: by its name)"
    )
    parser.add_argument("--item-col", help="column of item ids (default: by its name)")
    parser.add_argument(
        "--time-col", help="column of times (default: by its name; if there is none, row order)"
    )
    parser.add_argument("--k", type=int, default=50, help="items per user")
    parser.add_argument(
        "--out",
        help="file to write or replace: .parquet, .csv or .jsonl (default: stdout); written in "
        "parts, so memory does not grow; if killed, run the same command again to resume",
    )
    parser.add_argument(
        "--exclude-seen", action="store_true", help="leave out the items of the history"
    )
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        help="score bonus per pair of items from different categories",
    )
    parser.add_argument(
        "--categories", help="file of item_id and category (default: clusters of the items)"
    )
    parser.add_argument(
        "--filter", help="file whose item_id column lists the only items that may be recommended"
    )
    parser.add_argument(
        "--engine",
        default="auto",
        help='exact, a faiss factory string such as "IVF1024,Flat", or auto: by catalogue size',
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")


def run(arguments: Any) -> int:
    """Recommend, then write or print."""
    out = _check(arguments)  # before torch is imported
    from remi_fast import api
    from remi_fast.training.run_folder import RunFolder

    recommender = api.load(arguments.run)
    request = _request(recommender, arguments)
    if out is not None:
        return _stream(recommender, request, arguments, out)
    if arguments.histories is not None:
        histories = _read(Path(arguments.histories), _columns(arguments))
    else:
        histories = _sample(RunFolder.open(Path(arguments.run)), arguments.sample)
    recommended = recommender.answer(histories, request)
    _tell_of_order(arguments.histories, histories.columns)
    if arguments.json:
        print(recommended.write_ndjson(), end="")
    else:
        _print(histories, recommended)
    return 0


def _check(arguments: Any) -> Path | None:
    """The file to write. Raises ConfigError for options that make no sense."""
    if (arguments.histories is None) == (arguments.sample is None):
        got = "neither" if arguments.sample is None else "both"
        raise ConfigError(f"got {got}, expected one of --histories FILE and --sample N")
    for name, count in (("--k", arguments.k), ("--sample", arguments.sample)):
        if count is not None and count < 1:
            raise ConfigError(f"{name}: got {count}, expected at least 1")
    if arguments.categories is not None and not arguments.diversity:
        raise ConfigError("--categories: got a file, expected --diversity above 0 with it")
    if not arguments.out:
        return None
    if arguments.json:
        raise ConfigError("--json: got it beside --out, expected one of them (--out x.jsonl)")
    out = Path(arguments.out)
    if out.suffix not in FORMATS or out.is_dir():
        raise ConfigError(f"--out: got {str(out)!r}, expected a file name in {', '.join(FORMATS)}")
    if arguments.histories is not None and out.exists() and out.samefile(arguments.histories):
        raise ConfigError(f"--out: got {str(out)!r}, expected another file than --histories")
    return out


def _request(recommender: "Recommender", arguments: Any) -> "Request":
    chosen = None
    if arguments.filter is not None:
        from remi_fast.retrieval.categories import read_items

        chosen = read_items(Path(arguments.filter))
    try:
        return recommender.request(
            arguments.k,
            arguments.exclude_seen,
            arguments.diversity,
            chosen,
            arguments.categories,
            arguments.engine,
        )
    except ValueError as error:
        raise error if isinstance(error, RemiFastError) else ConfigError(f"--{error}") from None


def _stream(recommender: "Recommender", request: "Request", arguments: Any, out: Path) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from remi_fast.data.scan import scan
    from remi_fast.retrieval.streamed import StreamedRecommendations
    from remi_fast.training.run_folder import RunFolder

    columns: list[str] = []

    def histories(scratch: Path) -> "pl.LazyFrame":
        if arguments.histories is None:
            return _sample(RunFolder.open(Path(arguments.run)), arguments.sample).lazy()
        path = Path(arguments.histories)
        table = scan(path, _columns(arguments), scratch)
        columns.extend(table.collect_schema())
        return table

    streamed = StreamedRecommendations(out, _plan(arguments))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("recommending")

        def on_progress(done: int, parts: int) -> None:
            progress.update(task, completed=done, total=parts)

        total = streamed.write(recommender, histories, request, on_progress)
    _tell_of_order(arguments.histories, columns)
    print(f"{out}: {total.recommendations:,} recommendations for {total.users:,} users")
    return 0


def _plan(arguments: Any) -> dict[str, Any]:
    """What the recommendations depend on: the options, the files, and who split the users."""
    import polars as pl

    from remi_fast import __version__
    from remi_fast.training.run_folder import RunFolder

    best = RunFolder.open(Path(arguments.run)).best
    names = ("histories", "categories", "filter")
    sources = {name: getattr(arguments, name) for name in names}
    states = {
        name: None if path is None or not Path(path).exists() else _state(Path(path))
        for name, path in (sources | {"weights": best}).items()
    }
    skipped = (*names, "out", "json", "run", "config")
    options = {k: v for k, v in vars(arguments).items() if k not in skipped}
    return {**options, **states, "versions": [__version__, pl.__version__]}


def _state(path: Path) -> list[Any]:
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _columns(arguments: Any) -> "ColumnNames":
    from remi_fast.data.readers import ColumnNames

    return ColumnNames(arguments.user_col, arguments.item_col, arguments.time_col)


def _read(path: Path, columns: "ColumnNames") -> "pl.DataFrame":
    from remi_fast.data.readers import read

    return read([path], columns).frame


def _tell_of_order(path: str | None, columns: list[str]) -> None:
    if path is not None and "timestamp" not in columns:
        print(f"{path}: no time column found, so row order is used", file=sys.stderr)


def _sample(folder: "RunFolder", count: int) -> "pl.DataFrame":
    """The histories of the first test users."""
    import polars as pl

    from remi_fast.retrieval.evaluate import held_out_users

    dataset = folder.dataset()
    split = held_out_users(dataset, "test")
    item_ids, user_ids = dataset.item_table["item_id"], dataset.user_table["user_id"]
    frames = []
    for user, (start, cut, _) in zip(split.users[:count], split.spans[:count], strict=True):
        items = item_ids.gather(dataset.items[start:cut] - 1)
        frames.append(pl.DataFrame({"user_id": user_ids[int(user)], "item_id": items}))
    return pl.concat(frames)


def _print(histories: "pl.DataFrame", recommended: "pl.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("user", "history (last 5)", "recommended (score)", show_lines=True)
    for (user,), rows in recommended.group_by("user_id", maintain_order=True):
        past = histories.filter(histories["user_id"] == user)
        if "timestamp" in past.columns:
            past = past.sort("timestamp", maintain_order=True)
        items = zip(rows["item_id"], rows["score"], strict=True)
        table.add_row(
            str(user),
            "\n".join(str(item) for item in past["item_id"].tail(5)),
            "\n".join(f"{item} ({score:.2f})" for item, score in items),
        )
    Console().print(table)
