"""Raw text files: opening them, JSON lines, and the line to blame when something is wrong."""

import csv
import io
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from remi_fast.data.bounded_gzip import BoundedGzip
from remi_fast.errors import DataError, shown

SEPARATORS = {
    **{".csv": ",", ".csv.gz": ",", ".txt": ","},
    **{".tsv": "\t", ".tsv.gz": "\t", ".inter": "\t"},
}
READ_ERRORS = (
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError),
    *(EOFError, zlib.error),  # of a gzip file that is cut off or damaged
)
_JSON_SAMPLE = 100  # lines whose keys make the column names of a .jsonl file


@dataclass(frozen=True)
class Part:
    """The rows that came from one file, still in the types of the file."""

    path: Path
    suffix: str
    frame: pl.DataFrame


def open_text(path: Path) -> TextIO:
    """A UTF-8 file, unpacked, without its byte order mark."""
    if path.name.lower().endswith(".gz"):
        return io.TextIOWrapper(BoundedGzip(path), encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what may go wrong in the block, which reads the head of a file, into a DataError."""
    try:
        yield
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except csv.Error as error:
        raise DataError(f"{unreadable(path, error)}{_quote_after(path, 0)}") from None
    except READ_ERRORS as error:
        raise unreadable(path, error) from None


def sample(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of the first lines of JSON."""
    lines = ((n, line) for n, line in enumerate(file, 1) if line.strip())
    for number, line in itertools.islice(lines, _JSON_SAMPLE):
        yield number, json_object(path, number, line)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    """The object of line `number`. Raises DataError."""
    try:
        value = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(
            f"{path}:{number}: got a JSON {type(value).__name__}, expected an object per line"
        )
    return value


def value_of(column: pl.Series, row: int) -> str:
    """A value, for an error."""
    value = column[row]
    return shown(value.to_list() if isinstance(value, pl.Series) else value)


def where(parts: list[Part], row: int) -> str:
    """File and line (text) or row (Parquet), counted from 1, of a row of the concatenation."""
    for part in parts:
        if row < part.frame.height:
            if part.suffix == ".parquet":
                return f"{part.path}, row {row + 1}"
            try:
                line = next(itertools.islice(_records(part.path, part.suffix), row, None))[0]
            except csv.Error:  # a longer field than it takes
                return f"{part.path}, row {row + 1}"
            return f"{part.path}:{line}"
        row -= part.frame.height
    raise IndexError(row)


def _records(path: Path, suffix: str, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The last line's number and the fields of each record, slowly: only to find an error."""
    with open_text(path) as file:
        if suffix not in SEPARATORS:
            yield from ((n, [line]) for n, line in enumerate(file, 1) if line.strip())
            return
        reader = csv.reader(file, delimiter=SEPARATORS[suffix], strict=strict)
        if suffix != ".txt":
            next(reader)
        yield from ((reader.line_num, fields) for fields in reader)


def may_lack_fields(frame: pl.DataFrame) -> bool:
    """Whether a row, not blank, may end before the last column: polars fills it with nulls."""
    rows = frame.filter(frame.to_series(-1).is_null())
    return bool(rows.select(pl.any_horizontal(pl.all().is_not_null()).any()).item())


def ends_with_separator(source: Path | bytes, suffix: str) -> bool:
    """Whether a file, or its text, ends with an empty field and no line end: polars forgets it."""
    separator = SEPARATORS[suffix].encode()
    if isinstance(source, bytes):
        return source.endswith(separator)
    with open(source, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == separator


def check_fields(path: Path, suffix: str) -> None:
    """Raise DataError at the first record of another length than the header's, slowly."""
    with open_text(path) as file, suppress(csv.Error):  # a longer field than it takes
        reader = csv.reader(file, delimiter=SEPARATORS[suffix])
        width = len(next(reader))
        for fields in reader:
            if len(fields) != width and _is_filled(fields):
                raise _miscounted(path, reader.line_num, fields, width)


def _is_filled(fields: list[str]) -> bool:
    return any(map(str.strip, fields))


def _miscounted(path: Path, line: int, fields: list[str], width: int) -> DataError:
    return DataError(f"{path}:{line}: got {len(fields)} fields, expected {width}")


def diagnose(path: Path, suffix: str, error: BaseException) -> DataError:
    """Find the line that polars refused; its own message where no line can be blamed."""
    if suffix == ".parquet":
        return unreadable(path, error)
    line, width = 0, None
    try:
        if suffix in SEPARATORS:
            with open_text(path) as file:
                reader = csv.reader(file, delimiter=SEPARATORS[suffix])
                width = len(next(reader))
                line = 0 if suffix == ".txt" else reader.line_num
        for line, fields in _records(path, suffix, strict=True):  # noqa: B007
            if width is None:
                json_object(path, line, fields[0])
            elif len(fields) != width and _is_filled(fields):
                return _miscounted(path, line, fields, width)
    except DataError as found:
        return found
    except UnicodeDecodeError:
        return not_utf8(path)
    except (*READ_ERRORS, csv.Error) as found:
        hint = _quote_after(path, line) if isinstance(found, csv.Error) else ""
        return DataError(f"{path}, after line {line}: {found}; expected whole records{hint}")
    return unreadable(path, error)


def _quote_after(path: Path, line: int) -> str:
    """What is to be said of quotes in the line after the last that could be read, or nothing."""
    with open_text(path) as file:
        text = next(itertools.islice(file, line, None), "")
    if '"' not in text:
        return ""
    return f"; a quote from line {line + 1} on may not be closed (or doubled, inside a value)"


def not_utf8(path: Path) -> DataError:
    """Name the line of the first byte that is not UTF-8."""
    with BoundedGzip(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}:{number}: got byte 0x{line[error.start]:02x}, which is not UTF-8; "
                    "expected UTF-8 text"
                )
    return DataError(f"{path}: not UTF-8 text")


def unreadable(path: Path, error: BaseException) -> DataError:
    """polars' own message, or the system's."""
    message = str(error).strip().split("\n")[0]
    return DataError(f"{path}: cannot be read, expected interactions: {message:.300}")
