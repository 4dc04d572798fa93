"""The errors a user of remi-fast can meet. Each message says what was got, expected, and where."""

import difflib
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_LISTED = 20  # names


class RemiFastError(Exception):
    """Base of every error raised on purpose by remi-fast; the CLI prints it without a traceback."""


class ConfigError(RemiFastError, ValueError):
    """A configuration key or value that is unknown, malformed or out of range."""


class DataError(RemiFastError, ValueError):
    """Input data that cannot be used: unreadable, malformed, or empty after filtering."""


class CorruptFileError(RemiFastError):
    """A stored file whose size or checksum differs from what its manifest recorded."""


class StorageError(RemiFastError, OSError):
    """The file system refused a write: disk full, input/output error, no permission.

    What was committed before stands; the error of the system is its __cause__.
    """


class RunFolderError(RemiFastError):
    """A run or output folder that exists already, is missing, or is not what it should be."""


class NonFiniteError(RemiFastError, ArithmeticError):
    """A loss or gradient that is not finite; raised before any parameter was updated."""


class BenchmarkError(RemiFastError, RuntimeError):
    """A contestant of `remi-fast bench` that does not compute what it is compared in."""


class ExportError(RemiFastError):
    """An exported encoder that does not compute what the trained model does."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" for the nearest of the known words, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """`repr`, but on one line and of bounded length, whatever a file holds."""
    return " ".join(_SHORT.repr(value).split())


def listed(names: Iterable[str]) -> str:
    """The names, for an error: "none", or the first of them where there are too many to read."""
    names = list(names)
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return (", ".join(shown(name) for name in names[:_LISTED]) or "none") + more
