"""From raw interactions to a dataset folder: read, filter, index, split, write."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from remi_fast import files
from remi_fast.data.dataset import ARRAYS, FORMAT, MANIFEST, TABLES, VERSION, Dataset
from remi_fast.data.filters import FILTERS, apply_filter
from remi_fast.data.readers import ColumnNames, Interactions, read
from remi_fast.data.splits import (
    SPLITS,
    Split,
    split_given,
    split_leave_one_out,
    split_temporal,
    split_users,
)
from remi_fast.errors import ConfigError, DataError, RunFolderError, StorageError

_MAX_IDS = 2**31 - 2  # indices are int32, and items start at 1
_STAGES = ("read", "filter", "index", "split", "write")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PrepareSettings:
    """How to prepare; the defaults are the published protocol. Raises ConfigError.

    user_col, item_col, time_col: names in the source, None = guess. filter: "one-pass", "k-core"
    or "none", with the fewest interactions an item and a user must have. split: "users",
    "leave-one-out" or "temporal"; seed shuffles the users. A folder that is split already is
    taken as it is, without filter.
    """

    user_col: str | None = None
    item_col: str | None = None
    time_col: str | None = None
    filter: str = "one-pass"
    min_item: int = 5
    min_user: int = 5
    split: str = "users"
    seed: int = 1

    def __post_init__(self) -> None:
        for name, choices in (("filter", FILTERS), ("split", SPLITS)):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}"
                )
        for name in ("user_col", "item_col", "time_col"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected a name or None")
        for name in ("min_item", "min_user"):
            count = getattr(self, name)
            if not _is_whole(count) or count < 1:
                raise ConfigError(f"{name}: got {count!r}, expected a whole number, at least 1")
        if not _is_whole(self.seed) or not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed: got {self.seed!r}, expected a whole number, 0 <= seed < 2^64")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Indexed:
    """Sequences of item indices by user, in time order, with the raw ids of both."""

    items: npt.NDArray[np.int32]  # (nnz,), values 1..I-1
    offsets: npt.NDArray[np.int64]  # (U+1,)
    times: Array | None  # (nnz,)
    part: npt.NDArray[np.uint8] | None  # (U,), of data split already
    item_ids: pl.Series  # (I-1,), in index order
    item_counts: npt.NDArray[np.int64]  # (I-1,)
    user_ids: pl.Series  # (U,)


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: PrepareSettings | None = None,
) -> Dataset:
    """Prepare files of one format, or a folder of text files split already, into the folder `out`.

    Items are numbered from 1 by falling frequency after the filter, ties by ascending raw id;
    users from 0 by ascending raw id (text is compared by code point). Interactions of a user are
    sorted by time; equal times, and data without times, keep the order of the file.

    `out` appears complete or not at all. Raises DataError for input that cannot be used,
    RunFolderError when `out` exists.
    """
    out = _new(out)
    settings = settings or PrepareSettings()
    paths = [Path(s) for s in ([sources] if isinstance(sources, str | Path) else sources)]
    with _progress() as stage:
        stage("read")
        raw = read(paths, ColumnNames(settings.user_col, settings.item_col, settings.time_col))
        return _prepare(raw, [path.name for path in paths], out, settings, stage)


def prepare_interactions(
    raw: Interactions, source: str, out: str | Path, settings: PrepareSettings
) -> Dataset:
    """`prepare` for interactions that are in memory already; `source` says where they came from."""
    out = _new(out)
    with _progress() as stage:
        return _prepare(raw, [source], out, settings, stage)


def _new(out: str | Path) -> Path:
    if Path(out).exists():
        raise RunFolderError(f"{out}: exists already, expected a folder that does not exist yet")
    return Path(out)


def _prepare(
    raw: Interactions,
    sources: list[str],
    out: Path,
    settings: PrepareSettings,
    stage: Callable[[str], None],
) -> Dataset:
    columns, presplit = raw.columns, raw.presplit
    if presplit:
        settings = replace(settings, filter="none")
    elif settings.split == "temporal" and columns.time is None:
        raise DataError(f"{sources[0]}: no time column; the temporal split needs one (--time-col)")
    indexed, steps = _index(raw, settings, stage)
    stage("split")
    split = _split(indexed, settings)
    stage("write")
    parts = (("train", split.train), ("valid", split.valid), ("test", split.test))
    summary = {
        "sources": sources,
        "columns": asdict(columns),
        "order": f"column {columns.time!r}" if columns.time else "file order (no time column)",
        "filter": steps,
        "lengths": _lengths(indexed.offsets),
        "split": {
            name: {"users": len(part.users), "positions": part.num_positions}
            for name, part in parts
        },
        "skipped_users": split.skipped,
    }
    chosen = asdict(settings) | ({"split": "given"} if presplit else {})
    _write(out, indexed, split, chosen, summary)
    return Dataset.open(out, verify=False)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A bar on stderr over the stages; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task("prepare", total=len(_STAGES))

        def stage(name: str) -> None:
            bar.update(task, description=name, completed=_STAGES.index(name))

        yield stage


def _index(
    raw: Interactions, settings: PrepareSettings, stage: Callable[[str], None]
) -> tuple[_Indexed, list[dict[str, Any]]]:
    """Raw ids to indices: code, filter, renumber and sort."""
    stage("filter")
    columns = raw.frame.to_dict()
    user_ids, users = _encode(columns.pop("user_id"))
    item_ids, items = _encode(columns.pop("item_id"))
    kept = apply_filter(
        users, items, settings.filter, min_item=settings.min_item, min_user=settings.min_user
    )
    users, items = kept.users, kept.items
    rest = {name: column.to_numpy()[kept.positions] for name, column in columns.items()}
    stage("index")
    times = rest.get("timestamp")
    order = np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))
    users, items = users[order], items[order]

    lengths = np.bincount(users, minlength=len(user_ids))
    present = np.flatnonzero(lengths)
    offsets = np.concatenate(([0], np.cumsum(lengths[present], dtype=np.int64)))
    part = None
    if raw.presplit:
        parts = rest["part"][order]
        part = parts[offsets[:-1]]
        largest = np.maximum.reduceat(parts, offsets[:-1])
        mixed = np.flatnonzero(largest != np.minimum.reduceat(parts, offsets[:-1]))
        if len(mixed):
            raise DataError(
                f"user {user_ids[int(present[mixed[0]])]!r} is in more than one of the split's "
                f"files, and so are {len(mixed) - 1} others; expected every user in one"
            )
    counts = np.bincount(items, minlength=len(item_ids))
    by_count = np.argsort(-counts, kind="stable")
    ranked = by_count[kept.catalogue[by_count]]
    index = np.zeros(len(item_ids), np.int32)
    index[ranked] = np.arange(1, len(ranked) + 1)
    return _Indexed(
        items=index[items],
        offsets=offsets,
        times=None if times is None else times[order],
        part=part,
        item_ids=item_ids.gather(ranked),
        item_counts=counts[ranked],
        user_ids=user_ids.gather(present),
    ), [step.to_dict() for step in kept.steps]


def _encode(ids: pl.Series) -> tuple[pl.Series, npt.NDArray[np.int32]]:
    """The distinct ids in ascending order, and of each id its place among them."""
    distinct = ids.unique().sort()
    if len(distinct) > _MAX_IDS:
        raise DataError(f"{ids.name}: got {len(distinct)} distinct ids, expected <= {_MAX_IDS}")
    if ids.dtype == pl.String:
        codes = ids.cast(pl.Enum(distinct)).to_physical()
    else:
        codes = distinct.search_sorted(ids)
    return distinct, codes.cast(pl.Int32).to_numpy()


def _split(indexed: _Indexed, settings: PrepareSettings) -> Split:
    if indexed.part is not None:
        return split_given(indexed.offsets, indexed.part)
    if settings.split == "users":
        return split_users(indexed.offsets, settings.seed)
    if settings.split == "leave-one-out":
        return split_leave_one_out(indexed.offsets)
    assert indexed.times is not None
    return split_temporal(indexed.offsets, indexed.times)


def _lengths(offsets: npt.NDArray[np.int64]) -> dict[str, float]:
    """Distribution of the interactions of a user."""
    lengths = np.diff(offsets)
    return {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": round(float(lengths.mean()), 2),
        "90%": float(np.quantile(lengths, 0.9)),
        "max": int(lengths.max()),
    }


def _write(
    out: Path, indexed: _Indexed, split: Split, settings: dict[str, Any], summary: dict[str, Any]
) -> None:
    arrays: dict[str, Array] = {"items.npy": indexed.items, "offsets.npy": indexed.offsets}
    for name, part in (("train", split.train), ("valid", split.valid), ("test", split.test)):
        arrays |= {f"{name}_users.npy": part.users, f"{name}_spans.npy": part.spans}
    num_items, num_users = len(indexed.item_ids), len(indexed.user_ids)
    item_table = pl.DataFrame(
        {
            "item_id": indexed.item_ids,
            "index": np.arange(1, num_items + 1, dtype=np.int32),
            "count": indexed.item_counts,
        }
    )
    user_table = pl.DataFrame(
        {"user_id": indexed.user_ids, "index": np.arange(num_users, dtype=np.int32)}
    )
    with files.new_folder(out) as folder:
        for name in ARRAYS:
            files.write_npy(folder / name, arrays[name])
        for name, table in zip(TABLES, (item_table, user_table), strict=True):
            try:
                table.write_parquet(folder / name)
            except pl.exceptions.ComputeError as error:
                raise StorageError(f"{out / name}: cannot be written ({error})") from error
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "counts": {
                "users": num_users,
                "items": num_items,
                "interactions": len(indexed.items),
            },
            "settings": settings,
            "summary": summary,
            "files": {name: files.checksums(folder / name) for name in (*ARRAYS, *TABLES)},
        }
        files.write_checked_json(folder / MANIFEST, manifest)
