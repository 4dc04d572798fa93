"""Recommend items for histories of known or new users: raw ids in, raw ids out. Unknown items are
ignored; users without any known item get no recommendations, and their number is reported."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl
    from jsonargparse import ArgumentParser

    from remi_fast.training.run_folder import RunFolder

FORMATS = (".parquet", ".csv", ".jsonl")


def add_arguments(parser: "ArgumentParser") -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run folder made by `remi-fast train`")
    parser.add_argument(
        "--histories", help="file with columns user, item and, unless in order, time"
    )
    parser.add_argument(
        "--sample", type=int, help="instead: so many test users of the run's own data"
    )
    parser.add_argument("--user-col", help="column of user ids in FILE (guessed if not given)")
    parser.add_argument("--item-col", help="column of item ids (guessed if not given)")
    parser.add_argument("--time-col", help="column of times (guessed; else the order counts)")
    parser.add_argument("--k", type=int, default=50, help="items per user")
    parser.add_argument(
        "--out", help=f"file to write, or to replace: {', '.join(FORMATS)}; stdout if not given"
    )
    parser.add_argument("--exclude-seen", action="store_true", help="leave history items out")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")


def run(arguments: Any) -> int:
    """Recommend, then write or print."""
    from remi_fast import api
    from remi_fast.training.run_folder import RunFolder

    if (arguments.histories is None) == (arguments.sample is None):
        got = "neither" if arguments.sample is None else "both"
        raise ConfigError(f"got {got}, expected one of --histories FILE and --sample N")
    for name, count in (("--k", arguments.k), ("--sample", arguments.sample)):
        if count is not None and count < 1:
            raise ConfigError(f"{name}: got {count}, expected at least 1")
    out = Path(arguments.out) if arguments.out else None
    if out is not None:
        _check_out(out, arguments.histories)
    recommender = api.load(arguments.run)
    if arguments.histories is not None:
        columns = arguments.user_col, arguments.item_col, arguments.time_col
        histories = _read(Path(arguments.histories), columns)
    else:
        histories = _sample(RunFolder.open(Path(arguments.run)), arguments.sample)
    recommended = recommender.recommend(histories, arguments.k, arguments.exclude_seen)
    if out is not None:
        _write(recommended, out)
        users = recommended["user_id"].n_unique()
        print(f"{out}: {recommended.height:,} recommendations for {users:,} users")
    elif arguments.json:
        print(recommended.write_ndjson(), end="")
    else:
        _print(histories, recommended)
    return 0


def _check_out(out: Path, histories: str | None) -> None:
    if out.suffix not in FORMATS or out.is_dir():
        raise ConfigError(f"--out: got {str(out)!r}, expected a file name in {', '.join(FORMATS)}")
    if histories is not None and out.exists() and out.samefile(histories):
        raise ConfigError(f"--out: got {str(out)!r}, expected another file than --histories")


def _read(path: Path, columns: tuple[str | None, ...]) -> "pl.DataFrame":
    from remi_fast.data.readers import ColumnNames, read

    return read([path], ColumnNames(*columns)).frame


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


def _write(frame: "pl.DataFrame", path: Path) -> None:
    from remi_fast import files

    writers: dict[str, Callable[[Path], object]] = {
        ".parquet": frame.write_parquet,
        ".csv": frame.write_csv,
        ".jsonl": frame.write_ndjson,
    }
    with files.storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(path, writers[path.suffix])


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
