"""Interactions as a lazy table, for files that are larger than memory.

What `readers.read` gives, in the same order, without holding it: Parquet is scanned where it lies,
and a well-formed CSV or TSV file becomes a Parquet file first, a piece at a time. Other formats,
and files with anything to complain of, are read as a whole by `readers.read`, which says what.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from remi_fast.data import readers
from remi_fast.data.text_files import (
    READ_ERRORS,
    SEPARATORS,
    check_fields,
    ends_with_separator,
    may_lack_fields,
)

PIECE = 16 << 20  # bytes of text at a time


def scan(path: Path, names: readers.ColumnNames, scratch: Path) -> pl.LazyFrame:
    """user_id, item_id and, if there is one, timestamp, as `readers.read` types them.

    scratch: a folder for a Parquet file that is read from as long as the table is used. Raises
    DataError as `readers.read`.
    """
    table = _scan_as_it_is(path, names, scratch)
    if table is None:
        table = readers.read([path], names).frame.lazy()
    return table


def _scan_as_it_is(path: Path, names: readers.ColumnNames, scratch: Path) -> pl.LazyFrame | None:
    """The table if everything in it is plain, else None."""
    suffix = path.suffix.lower()
    if suffix not in (".parquet", *SEPARATORS) or not path.is_file():
        return None
    columns = readers.choose_columns(path, names).renamed()
    select = [pl.col(old).alias(new) for old, new in columns.items()]
    try:
        if suffix == ".parquet":
            table = pl.scan_parquet(path, glob=False).select(select)
            return table if _is_plain(table) else None
        written: list[Path] = []
        lacking = False
        for piece in _pieces(path):
            text = pl.read_csv(piece, separator=SEPARATORS[suffix], infer_schema=False)
            lacking = lacking or ends_with_separator(piece, suffix) or may_lack_fields(text)
            stripped = text.select(select).select(pl.all().str.strip_chars().replace("", None))
            written.append(scratch / f"histories-{len(written):06}.parquet")
            stripped.write_parquet(written[-1])
        if lacking:
            check_fields(path, suffix)
        return _typed(pl.scan_parquet(written, glob=False)) if written else None
    except READ_ERRORS:
        return None


def _pieces(path: Path) -> Iterator[bytes]:
    """Some lines of a text file at a time, under its header, as polars would hold the whole file.

    Where a line end is in quotes, it refuses the piece that ends there.
    """
    with open(path, "rb") as file:
        header = file.readline()
        while lines := file.read(PIECE):
            yield header + lines + file.readline()


def _is_plain(table: pl.LazyFrame) -> bool:
    """Whether a Parquet file has rows, int64 or text ids, int64 times, and no nulls."""
    schema = table.collect_schema()
    ids = all(schema[name] in (pl.Int64, pl.String) for name in ("user_id", "item_id"))
    if not ids or schema.get("timestamp", pl.Int64) != pl.Int64:
        return False
    text = [name for name, dtype in schema.items() if dtype == pl.String]
    nul = [
        pl.col(name).str.contains("\0", literal=True).any().alias(f"nul {name}") for name in text
    ]
    found = table.select(pl.len().alias("rows"), pl.all().null_count(), *nul)
    row = found.collect(engine="streaming").row(0, named=True)
    return row.pop("rows") > 0 and not any(row.values())


def _typed(table: pl.LazyFrame) -> pl.LazyFrame | None:
    """The columns of a text file with their types, if each has one that fits all of it."""
    names = table.collect_schema().names()
    checks = [pl.len().alias("rows"), pl.all().null_count()]
    for name in names:
        text, whole = pl.col(name), pl.col(name).cast(pl.Int64, strict=False)
        number = text.cast(pl.Float64, strict=False)
        checks += [
            whole.null_count().alias(f"{name} no int"),
            (whole.cast(pl.String) != text).any().alias(f"{name} other digits"),
            number.null_count().alias(f"{name} no number"),
            text.str.contains("\0", literal=True).any().alias(f"{name} nul"),
        ]
    found = table.select(checks).collect(engine="streaming").row(0, named=True)
    if not found["rows"] or any(found[name] or found[f"{name} nul"] for name in names):
        return None
    types = {}
    for name in names:
        if not found[f"{name} no int"] and (
            name == "timestamp" or not found[f"{name} other digits"]
        ):
            types[name] = pl.Int64()
        elif name == "timestamp" or not (found[f"{name} no number"] or not found[f"{name} no int"]):
            return None  # times of another kind; numbers that are not all whole
    return table.with_columns(pl.col(name).cast(dtype) for name, dtype in types.items())
