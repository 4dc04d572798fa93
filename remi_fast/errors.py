"""The errors a user of remi-fast can meet. Each message says what was got, expected, and where."""


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
