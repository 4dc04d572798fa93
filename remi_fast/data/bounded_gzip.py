"""Reading gzip files that may be made to fill the memory."""

import gzip
from pathlib import Path

from remi_fast.errors import DataError

RATIO = 200  # unpacked bytes to a packed one: lines of JSON have 5 to 30, and 1,032 are possible


class BoundedGzip(gzip.GzipFile):
    """A gzip file for reading; DataError where it unpacks to more than interactions ever would."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._path, self._most = path, RATIO * path.stat().st_size + (1 << 20)

    def read(self, size: int | None = -1) -> bytes:
        whole = size is None or size < 0
        return self._checked(super().read(self._most + 1 if whole else size))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))

    def _checked(self, data: bytes) -> bytes:
        if self.tell() > self._most:
            raise DataError(
                f"{self._path}: unpacks to more than {RATIO} times its size, "
                "expected interactions; unpack it first if that is what it holds"
            )
        return data
