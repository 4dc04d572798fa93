"""Reading raw interactions: every supported format becomes one table of users, items and times.

Formats: .parquet, .csv, .tsv, .jsonl, these three with .gz too, RecBole's .inter (a TSV file with
typed names in its header), and a folder of text files split already, as ComiRec publishes them.

Text formats are read as text and typed afterwards. Ids that are all whole numbers become int64;
any others stay text, as do numbers with leading zeros, since "007" and "7" are two ids. A column
of numbers that are not all whole is an error, not text. Space around a value is dropped; so is a
line without any value. A UTF-8 byte order mark and CRLF line ends are understood.
"""

import codecs
import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from remi_fast.data.bounded_gzip import BoundedGzip
from remi_fast.data.dataset import MANIFEST
from remi_fast.data.text_files import (
    READ_ERRORS,
    SEPARATORS,
    Part,
    check_fields,
    diagnose,
    ends_with_separator,
    may_lack_fields,
    open_text,
    reading,
    sample,
    value_of,
    where,
)
from remi_fast.errors import DataError, listed, nearest, shown

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".inter", ".jsonl", ".jsonl.gz")
PARTS = ("train", "valid", "test")

# Usual names, lower case and without "_", "-" or space; the second group counts only when no
# column matches the first, so that user_id beside session_id is not ambiguous.
_USUAL_NAMES: dict[str, tuple[set[str], set[str]]] = {
    "user": (
        {"user", "uid", "userid", "visitorid", "customerid", "reviewerid", "memberid"},
        {"session", "sessionid"},
    ),
    "item": (
        {"item", "iid", "itemid", "asin", "parentasin", "movieid", "productid", "articleid"}
        | {"clickarticleid", "trackid", "songid", "newsid", "bookid", "businessid", "venueid"},
        set(),
    ),
    "time": (
        {"timestamp", "time", "ts", "datetime", "unixtime", "unixtimestamp", "unixreviewtime"}
        | {"eventtime", "eventtimestamp", "clicktimestamp", "createdat"},
        {"date", "day", "tdat"},
    ),
}


@dataclass(frozen=True)
class ColumnNames:
    """The columns that hold users, items and times; None = guess (and no time if none fits)."""

    user: str | None = None
    item: str | None = None
    time: str | None = None

    def renamed(self) -> dict[str, str]:
        """Those that there are, and what they are called from there on."""
        pairs = ((self.user, "user_id"), (self.item, "item_id"), (self.time, "timestamp"))
        return {old: new for old, new in pairs if old is not None}


@dataclass(frozen=True)
class Interactions:
    """Raw interactions in file order, at least one, without nulls.

    `frame`: user_id and item_id (Int64 or String); timestamp (Int64 or Float64; dates are
    microseconds) when `columns.time` is not None; part (UInt8, index into PARTS) when
    `presplit`. `columns` are the source's names.
    """

    frame: pl.DataFrame
    columns: ColumnNames
    presplit: bool = False


def read(sources: Sequence[Path], names: ColumnNames) -> Interactions:
    """Read files of one format, concatenated in the order given, or one folder split already.

    Raises DataError, which names the file and, where it can be known, the line.
    """
    if not sources:
        raise DataError("no source given; expected at least one file or one folder")
    for path in sources:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder, expected raw interactions")
    repeated = [path for path, count in Counter(p.resolve() for p in sources).items() if count > 1]
    if repeated:
        raise DataError(f"{repeated[0]}: given more than once, expected every file once")
    if any(path.is_dir() for path in sources):
        if len(sources) > 1:
            raise DataError(
                f"got {len(sources)} sources, one of them a folder; expected files, or one folder"
            )
        return _read_presplit(sources[0])
    suffixes = [_suffix(path) for path in sources]
    for path, suffix in zip(sources, suffixes, strict=True):
        if suffix != suffixes[0]:
            raise DataError(
                f"{path}: got a {suffix} file after a {suffixes[0]} file ({sources[0]}); "
                "expected files of one format"
            )
    columns: ColumnNames | None = None
    parts = []
    for path in sources:
        found = choose_columns(path, names)
        if columns is not None and found != columns:
            raise DataError(
                f"{path}: got {_describe(found)}, expected {_describe(columns)} as in {sources[0]}"
            )
        columns = found
        parts.append(Part(path, suffixes[0], _read_file(path, suffixes[0], found)))
    assert columns is not None
    return Interactions(_typed(parts), columns)


def choose_columns(path: Path, names: ColumnNames) -> ColumnNames:
    """The columns of a file that `read` would read. Raises as it does."""
    return _choose(path, _header(path, _suffix(path)), names)


def _suffix(path: Path) -> str:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return suffix
    raise DataError(
        f"{path}: unknown file extension {path.suffix!r}; expected one of {', '.join(SUFFIXES)}, "
        "or a folder of *_train.txt, *_valid.txt and *_test.txt"
    )


def _describe(columns: ColumnNames) -> str:
    return f"columns user={columns.user!r}, item={columns.item!r}, time={columns.time!r}"


# --- which columns -----------------------------------------------------------------------------


def _header(path: Path, suffix: str) -> list[str]:
    """The column names as the file has them."""
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty, expected interactions")
    with reading(path):
        if suffix == ".parquet":
            return pl.scan_parquet(path).collect_schema().names()
        with open_text(path) as file:
            if suffix not in SEPARATORS:
                return list(dict.fromkeys(key for _, row in sample(path, file) for key in row))
            if file.readline().endswith("\r"):
                raise DataError(f"{path}: lines end with CR alone, expected LF or CRLF")
            file.seek(0)
            return next(csv.reader(file, delimiter=SEPARATORS[suffix]), [])


def _choose(path: Path, header: list[str], names: ColumnNames) -> ColumnNames:
    """The columns to read, as named in the file: those asked for, or those with a usual name."""
    asked = {"user": names.user, "item": names.item, "time": names.time}
    found = {role: _candidates(path, header, role, wanted) for role, wanted in asked.items()}
    for role, wanted in asked.items():
        if len(found[role]) > 1:
            raise DataError(
                f"{path}: {len(found[role])} columns may be the {role}: {listed(found[role])}, "
                f"expected one; choose it with --{role}-col (columns found: {listed(header)})"
            )
        if not found[role] and (role != "time" or wanted is not None):
            what = f"column {wanted!r}" if wanted is not None else f"{role} column"
            free = [name for name in header if not any(name in taken for taken in found.values())]
            hint = _separated_otherwise(path, header) or nearest(wanted or f"{role}_id", free)
            if not hint and _suffix(path) in SEPARATORS:
                hint = "; the first line must name the columns"
            raise DataError(
                f"{path}: no {what}; name it with --{role}-col "
                f"(columns found: {listed(header)}){hint}"
            )
    chosen = {role: columns[0] if columns else None for role, columns in found.items()}
    used = [name for name in chosen.values() if name is not None]
    if len(set(used)) != len(used):
        raise DataError(
            f"{path}: one column has two meanings: {chosen}, expected a column for each"
        )
    return ColumnNames(**chosen)


def _candidates(path: Path, header: list[str], role: str, wanted: str | None) -> list[str]:
    """The columns with the wanted name, or else with a usual one."""
    # RecBole's names carry a type: "user_id:token".
    bare = [name.split(":")[0] if path.suffix == ".inter" else name for name in header]
    if wanted is not None:
        return [h for h, b in zip(header, bare, strict=True) if wanted in (h, b)]
    plain = [b.strip().lower().translate(str.maketrans("", "", "_- ")) for b in bare]
    for usual in _USUAL_NAMES[role]:
        if found := [h for h, p in zip(header, plain, strict=True) if p in usual]:
            return found
    return []


def _separated_otherwise(path: Path, header: list[str]) -> str:
    """What is to be said of a first line that another separator would divide, or nothing."""
    expected = SEPARATORS.get(_suffix(path))
    if expected is None or len(header) != 1:
        return ""
    for other in ";\t|,":
        if other in header[0] and other != expected:
            return f"; the first line is separated by {other!r}, expected {expected!r}"
    return ""


# --- reading -----------------------------------------------------------------------------------


def _read_file(path: Path, suffix: str, columns: ColumnNames) -> pl.DataFrame:
    """user_id, item_id and, if there is one, timestamp; text formats give String columns."""
    source = columns.renamed()
    select = [pl.col(old).alias(new) for old, new in source.items()]
    try:
        if suffix == ".parquet":
            return pl.scan_parquet(path).select(select).collect(engine="streaming")
        if suffix in SEPARATORS:
            return _read_delimited(path, suffix, select)
        _check_json_values(path, source)
        schema = dict.fromkeys(source, pl.String)
        return pl.scan_ndjson(_without_mark(path), schema=schema).select(select).collect()
    except READ_ERRORS as error:
        raise diagnose(path, suffix, error) from None


def _read_delimited(path: Path, suffix: str, select: list[pl.Expr]) -> pl.DataFrame:
    """Every field is parsed, and dropped a piece at a time: else polars would not count them."""
    lacking: list[bool] = []

    def selected(fields: pl.DataFrame) -> pl.DataFrame:
        lacking.append(may_lack_fields(fields))
        return fields.select(select)

    names = [each.meta.output_name() for each in select]
    source = _without_mark(path) if suffix.endswith(".gz") else path
    scan = pl.scan_csv(source, separator=SEPARATORS[suffix], infer_schema=False, glob=False)
    frame = scan.map_batches(selected, schema=dict.fromkeys(names, pl.String), streamable=True)
    table = frame.collect(engine="streaming")
    if any(lacking) or ends_with_separator(source, suffix):
        check_fields(path, suffix)
    return table


def _check_json_values(path: Path, source: dict[str, str]) -> None:
    """Refuse what polars would turn into text."""
    with open_text(path) as file:
        for number, row in sample(path, file):
            for old, new in source.items():
                if isinstance(value := row.get(old), list | dict | bool):
                    raise DataError(
                        f"{path}:{number}: {new} is {shown(value)}, expected a number or text"
                    )


def _without_mark(path: Path) -> Path | bytes:
    """The path, or the file's bytes when it starts with a byte order mark (polars refuses it).

    Of a gzip file, always the bytes: polars would make any number of them.
    """
    if path.name.lower().endswith(".gz"):
        with BoundedGzip(path) as file:
            return file.read().removeprefix(codecs.BOM_UTF8)
    with open(path, "rb") as plain:
        return plain.read() if plain.read(3) == codecs.BOM_UTF8 else path


def _read_presplit(folder: Path) -> Interactions:
    """*_train.txt, *_valid.txt and *_test.txt with lines user,item,time or user,item,index,time."""
    if (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder}: prepared already, expected raw interactions; "
            "`remi-fast train` takes it as it is"
        )
    if not any(path.name.lower().endswith((*SUFFIXES, ".txt")) for path in folder.iterdir()):
        raise DataError(
            f"{folder}: nothing in it can be read, "
            "expected *_train.txt, *_valid.txt and *_test.txt, or files to be given by name"
        )
    parts, frames = [], []
    for part in PARTS:
        matches = sorted(folder.glob(f"*_{part}.txt"))
        if len(matches) != 1:
            got = ", ".join(path.name for path in matches) or "none"
            raise DataError(f"{folder}: got {got}, expected exactly one file *_{part}.txt")
        frame = _read_headerless(matches[0])
        parts.append(Part(matches[0], ".txt", frame))
        frames.append(pl.repeat(PARTS.index(part), frame.height, dtype=pl.UInt8, eager=True))
    if len({"index" in part.frame.columns for part in parts}) > 1:
        raise DataError(f"{folder}: expected 3 fields in all files, or 4 fields in all files")
    typed = _typed(parts, part=pl.concat(frames))
    if "index" in typed.columns:  # decides between equal times
        typed = typed.sort("index", maintain_order=True).drop("index")
    return Interactions(typed, ColumnNames("field 1", "field 2", "last field"), presplit=True)


def _read_headerless(path: Path) -> pl.DataFrame:
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty, expected interactions")
    with reading(path), open_text(path) as file:
        fields = next(csv.reader(file), [])
    names = {
        3: ["user_id", "item_id", "timestamp"],
        4: ["user_id", "item_id", "index", "timestamp"],
    }
    if len(fields) not in names:
        raise DataError(
            f"{path}:1: got {len(fields)} fields, expected user,item,time or user,item,index,time"
        )
    schema = dict.fromkeys(names[len(fields)], pl.String)
    try:
        return pl.read_csv(path, has_header=False, schema=schema)
    except READ_ERRORS as error:
        raise diagnose(path, ".txt", error) from None


# --- types -------------------------------------------------------------------------------------


def _typed(parts: list[Part], part: pl.Series | None = None) -> pl.DataFrame:
    """Concatenate, check every value, and give the columns their types."""
    for other in parts[1:]:
        if other.frame.schema != parts[0].frame.schema:
            raise DataError(
                f"{other.path}: got column types {dict(other.frame.schema)}, expected "
                f"{dict(parts[0].frame.schema)} as in {parts[0].path}"
            )
    frame = pl.concat([p.frame for p in parts])
    if frame.is_empty():
        raise DataError(f"{parts[0].path}: no interactions, only a header; expected at least one")
    blank = pl.repeat(False, frame.height, eager=True)
    if parts[0].suffix != ".parquet":
        frame = frame.with_columns(pl.all().str.strip_chars().replace("", None))
        blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    columns = []
    for column in frame.iter_columns():
        wrong = _first(column.is_null() & ~blank)
        if wrong is not None:
            raise DataError(
                f"{where(parts, wrong)}: {column.name} is empty (null), expected a value"
            )
        is_id = column.name in ("user_id", "item_id")
        typed = _ids(column, parts) if is_id else _times(column, parts)
        columns.append(typed.alias(column.name))
    if part is not None:
        columns.append(part.alias("part"))
    frame = pl.DataFrame(columns)
    frame = frame.filter(~blank) if blank.any() else frame
    if frame.is_empty():
        raise DataError(f"{parts[0].path}: no interactions, only a header; expected at least one")
    return frame


def _ids(column: pl.Series, parts: list[Part]) -> pl.Series:
    """Int64 or String ids; nulls (blank lines) stay null."""
    dtype = column.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if dtype.is_integer():
        ids = column.cast(pl.Int64, strict=False)
        _refuse(column, ids, parts, "a whole number within int64")
        return ids
    if dtype != pl.String:
        raise DataError(
            f"{where(parts, 0)}: {column.name} is of type {dtype} "
            f"(first value: {value_of(column, 0)}); expected whole numbers or text"
        )
    if parts[0].suffix != ".parquet":
        ids = column.cast(pl.Int64, strict=False)
        if ids.null_count() == column.null_count():
            return ids if (ids.cast(pl.String) == column).all() else column
        if column.cast(pl.Float64, strict=False).null_count() == column.null_count():
            _refuse(column, ids, parts, "a whole number within int64 as in other lines, or text")
    wrong = _first(column.str.contains("\0", literal=True).fill_null(False))
    if wrong is not None:
        raise DataError(
            f"{where(parts, wrong)}: {column.name} is {value_of(column, wrong)}, "
            "expected text without NUL bytes"
        )
    return column


def _times(column: pl.Series, parts: list[Part]) -> pl.Series:
    """Int64 or Float64 times from numbers, dates, or text with either; dates are microseconds."""
    dtype = column.dtype
    if dtype == pl.String:
        numbers = (column.cast(number, strict=False) for number in (pl.Int64, pl.Float64))
        times = min((*numbers, _iso_times(column)), key=pl.Series.null_count)  # understands most
    elif dtype.is_integer():
        times = column.cast(pl.Int64, strict=False)
    elif dtype.is_float():
        times = column.cast(pl.Float64)
    elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
        times = column.cast(pl.Datetime("us")).cast(pl.Int64)
    else:
        raise DataError(
            f"{where(parts, 0)}: {column.name} is of type {dtype}; "
            "expected numbers, dates, or text with either"
        )
    if times.dtype == pl.Float64:
        times = times.set(~times.is_finite(), None)
    _refuse(column, times, parts, "a finite number or an ISO 8601 date and time")
    return times


def _iso_times(column: pl.Series) -> pl.Series:
    """Microseconds of ISO 8601 text; a time without a zone is UTC."""
    text = pl.col(column.name).str.replace("T", " ", literal=True)
    text = text.str.replace(r"\s*(Z|UTC)$", "+00:00")
    utc = pl.Datetime("us", "UTC")
    zoned = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", time_zone="UTC", strict=False)
    plain = [
        text.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
        for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    ]
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(utc)
    times = column.to_frame().select(pl.coalesce(zoned.cast(utc), *plain, day))
    return times.to_series().cast(pl.Int64)


# --- errors ------------------------------------------------------------------------------------


def _first(mask: pl.Series) -> int | None:
    return mask.arg_max() if mask.any() else None


def _refuse(column: pl.Series, typed: pl.Series, parts: list[Part], expected: str) -> None:
    """Raise DataError at the first value that `typed` has lost."""
    wrong = _first(typed.is_null() & column.is_not_null())
    if wrong is not None:
        raise DataError(
            f"{where(parts, wrong)}: {column.name} is {value_of(column, wrong)}, "
            f"expected {expected}"
        )
