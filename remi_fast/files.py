"""Crash-safe writing and verified reading of files: the one place for fsync and checksums."""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from remi_fast.errors import CorruptFileError

CHECKSUM_CHUNK = 4 << 20  # bytes covered by one CRC-32, so that an error can name an offset


def fsync_path(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Make `path` with `write(temporary)`, then fsync and rename: the whole file or none of it."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write(temporary)
        fsync_path(temporary)
        os.replace(temporary, path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_file(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; it becomes `path` when the block ends without error.

    The caller has made sure that `path` does not exist, or is a folder that may be replaced: an
    existing one is moved aside first and removed last, so that one whole version always stands.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    previous = path.with_name(f".{path.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            fsync_path(file)
        fsync_path(temporary)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(path, previous)
        os.replace(temporary, path)
        fsync_path(path.parent)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Undo a `new_folder` that was killed between its two renames: put the old version back."""
    previous = path.with_name(f".{path.name}.old")
    if previous.is_dir() and not path.exists():
        os.replace(previous, path)


def checksums(path: Path) -> dict[str, Any]:
    """Size and CRC-32 of every 4 MiB of a file, as the manifests store them."""
    crcs = []
    with open(path, "rb") as file:
        while chunk := file.read(CHECKSUM_CHUNK):
            crcs.append(f"{zlib.crc32(chunk):08x}")
    return {"bytes": path.stat().st_size, "crc32_per_4MiB": crcs}


def verify(path: Path, expected: dict[str, Any]) -> None:
    """Raise CorruptFileError, naming file and offset, unless the file is as `checksums` saw it."""
    if not path.is_file():
        raise CorruptFileError(f"{path}: file is missing; expected {expected['bytes']} bytes")
    actual = checksums(path)
    if actual["bytes"] != expected["bytes"]:
        raise CorruptFileError(
            f"{path}: got {actual['bytes']} bytes, expected {expected['bytes']}: "
            "the file was truncated or extended"
        )
    pairs = zip(actual["crc32_per_4MiB"], expected["crc32_per_4MiB"], strict=True)
    for i, (got, want) in enumerate(pairs):
        if got != want:
            raise CorruptFileError(
                f"{path}: checksum mismatch in the 4 MiB at offset {i * CHECKSUM_CHUNK}: "
                f"got crc32 {got}, expected {want}"
            )
