"""Crash-safe writing and verified reading of files: the one place for fsync, locks, checksums."""

import errno
import fcntl
import glob
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.errors import CorruptFileError, StorageError

if TYPE_CHECKING:
    import numpy.typing as npt

CHECKSUM_CHUNK = 4 << 20  # bytes covered by one CRC-32, so that an error can name an offset
MAX_JSON = 16 << 20  # bytes of a manifest: the checksums of 3 TB


def fsync_path(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_usual_mode(path: Path) -> None:
    """Give a file the permissions of any new one: safetensors makes its files for their owner."""
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into a StorageError that names it."""
    try:
        yield
    except StorageError:  # it names the file already
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error})") from error


@contextmanager
def locked(path: Path) -> Iterator[bool | None]:
    """Hold the lock of a file or folder, which goes with its process, however that ends.

    Yields True; False where another one holds it; None on a file system without locks.
    """
    with storing(path):
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        mine: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError:
            mine = None
        yield mine
    finally:
        os.close(descriptor)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Make `path` with `write(temporary)`, then fsync and rename: the whole file or none of it."""
    temporary = _temporary(path)
    with storing(path):
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


def check_writable(path: Path) -> None:
    """Raise StorageError where `path` could not be written, before the work that leads to it.

    The rights of a folder do not tell (root, read-only mounts, /proc): a file is made beside it.
    """
    temporary = _temporary(path)
    with storing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary.touch()
        temporary.unlink()


def write_npy(path: Path, array: "npt.NDArray[Any]") -> None:
    """np.save, but an error where the last bytes find no room: they wait in a buffer of C there.

    Not atomic by itself: for files of a `new_folder`.
    """
    import numpy as np

    array = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; it becomes `path` when the block ends without error.

    replace: where `path` is a folder already, it is moved aside first and removed last, so that one
    whole version always stands (see `standing`). Otherwise `path` must not exist. After an error
    nothing is left, not even the parents that were made for it; but where the disk did not say that
    it has the new version, the one before stays aside until `recover_folder`.
    """
    temporary = _temporary(path)
    with storing(path):
        parents = [parent for parent in path.parents if not parent.exists()]
        for left in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
            if _is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            with locked(temporary):
                yield temporary
                for file in temporary.rglob("*"):
                    fsync_path(file)
                fsync_path(temporary)
                _put(temporary, path, replace)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if not path.exists():
                remove_empty(parents)


def _put(temporary: Path, path: Path, replace: bool) -> None:
    previous = _previous(path)
    if replace and path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(path, previous)
    try:
        os.replace(temporary, path)
    except OSError:
        recover_folder(path)
        raise
    fsync_path(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def standing(path: Path) -> Path:
    """Where a folder that `new_folder` replaces can be read: between its two renames, elsewhere."""
    previous = _previous(path)
    return previous if previous.is_dir() and not path.exists() else path


def recover_folder(path: Path) -> None:
    """Undo a `new_folder` that was killed between its two renames, finish one killed after them.

    Not while another process may be writing `path`.
    """
    previous = _previous(path)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
    elif previous.is_dir():
        os.replace(previous, path)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that no other one writes to."""
    for left in folder.glob(".*.tmp-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for what did not come to be, the innermost first."""
    with suppress(OSError):  # it was not made, or another process uses it
        for folder in folders:
            folder.rmdir()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _is_abandoned(folder: Path) -> bool:
    try:
        with locked(folder) as mine:
            return mine is True
    except StorageError:  # it is gone, or not ours
        return False


def checksums(path: Path) -> dict[str, Any]:
    """Size and CRC-32 of every 4 MiB of a file, as the manifests store them."""
    size = path.stat().st_size
    offsets = range(0, size, CHECKSUM_CHUNK)
    if len(offsets) <= 8:  # not worth a thread
        crcs = [_crc32_at(path, offset) for offset in offsets]
    else:  # zlib leaves the interpreter to other threads
        with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
            crcs = list(pool.map(partial(_crc32_at, path), offsets))
    return {"bytes": size, "crc32_per_4MiB": crcs}


def _crc32_at(path: Path, offset: int) -> str:
    with open(path, "rb") as file:
        file.seek(offset)
        return f"{zlib.crc32(file.read(CHECKSUM_CHUNK)):08x}"


def verify(path: Path, expected: Any) -> None:
    """Raise CorruptFileError, naming file and offset, unless the file is as `checksums` saw it."""
    if not _are_checksums(expected):
        raise CorruptFileError(f"{path}: its checksums are listed as {expected!r:.100}")
    want_bytes, want_crcs = expected["bytes"], expected["crc32_per_4MiB"]
    if not path.is_file():
        raise CorruptFileError(f"{path}: file is missing; expected {want_bytes} bytes")
    size = path.stat().st_size
    if size != want_bytes:
        chunk = min(size, want_bytes) // CHECKSUM_CHUNK
        want = want_crcs[chunk] if chunk < len(want_crcs) else None
        raise CorruptFileError(
            f"{path}: got {size} bytes, expected {want_bytes}: the file was truncated or extended; "
            + _mismatch(chunk, _crc32_at(path, chunk * CHECKSUM_CHUNK), want)
        )
    for chunk, (got, want) in enumerate(zip_longest(checksums(path)["crc32_per_4MiB"], want_crcs)):
        if got != want:
            raise CorruptFileError(f"{path}: {_mismatch(chunk, got, want)}")


def _mismatch(chunk: int, got: str | None, want: str | None) -> str:
    return (
        f"checksum mismatch in the 4 MiB at offset {chunk * CHECKSUM_CHUNK}: "
        f"got crc32 {got}, expected {want}"
    )


def verify_folder(folder: Path, index: str, listed: Any) -> None:
    """Verify every file that the folder's `index` lists, and that there is no other.

    Hidden files are left alone: they are those of file managers and file systems.
    """
    if not isinstance(listed, dict):
        raise CorruptFileError(f"{folder / index}: got files {listed!r:.100}, expected an object")
    for name, expected in listed.items():
        if Path(name).name != name:
            raise CorruptFileError(
                f"{folder / index}: lists {name!r:.100}, expected names of files in this folder"
            )
        verify(folder / name, expected)
    for path in folder.iterdir():
        if path.name not in listed and path.name != index and not path.name.startswith("."):
            raise CorruptFileError(
                f"{path}: got a file that {index} does not list, expected none beside the "
                f"{len(listed)} that it does"
            )


def _are_checksums(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get("bytes")) is int
        and value["bytes"] >= 0
        and isinstance(value.get("crc32_per_4MiB"), list)
    )


def write_checked_json(path: Path, value: dict[str, Any]) -> None:
    """`write_json` of an object that is not empty, with the CRC-32 of the text as its last key."""
    body = json.dumps(value, indent=2).removesuffix("\n}").encode()
    write_file(path, lambda p: p.write_bytes(body + _json_end(zlib.crc32(body))))


def read_checked_json(path: Path) -> dict[str, Any]:
    """What `write_checked_json` wrote there, with the key "crc32". Raises CorruptFileError."""
    size = path.stat().st_size
    if size > MAX_JSON:
        raise CorruptFileError(f"{path}: got {size} bytes, expected at most {MAX_JSON}")
    text = path.read_bytes()
    end = max(0, len(text) - len(_json_end(0)))
    crc = zlib.crc32(text[:end])
    if text[end:] != _json_end(crc):
        raise CorruptFileError(
            f"{path}: checksum mismatch in the {end} bytes at offset 0: got crc32 {crc:08x}, and "
            f"{text[end:]!r} at offset {end}, where that checksum was expected: "
            "damaged, or not a file of remi-fast"
        )
    try:
        value: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: not valid JSON: {error}") from None
    return value


def _json_end(crc: int) -> bytes:
    return f',\n  "crc32": "{crc:08x}"\n}}\n'.encode()
