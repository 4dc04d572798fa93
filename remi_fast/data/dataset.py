"""A prepared dataset on disk, memory-mapped: what training, evaluation and export read."""

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remi_fast import files
from remi_fast.errors import CorruptFileError, DataError

if TYPE_CHECKING:
    import polars as pl

FORMAT = "remi-fast-dataset"
VERSION = 1

Array = npt.NDArray[Any]

# Of every array: type and number of columns (0 = one-dimensional).
ARRAYS: dict[str, tuple[type[np.signedinteger[Any]], int]] = {
    "items.npy": (np.int32, 0),
    "offsets.npy": (np.int64, 0),
    "train_users.npy": (np.int32, 0),
    "train_spans.npy": (np.int64, 2),
    "valid_users.npy": (np.int32, 0),
    "valid_spans.npy": (np.int64, 3),
    "test_users.npy": (np.int32, 0),
    "test_spans.npy": (np.int64, 3),
}
TABLES = ("items.parquet", "users.parquet")


@dataclass(frozen=True)
class EvalSplit:
    """Users to evaluate: `users` (m,) int32 and `spans` (m, 3) int64, [start, cut, end) in items.

    The history is items[start:cut], the targets are items[cut:end]; neither is empty.
    """

    users: Array
    spans: Array

    def __len__(self) -> int:
        return len(self.users)


class Dataset:
    """Interactions as sequences of item indices, one user after another, each in time order.

    path, manifest      the folder and its manifest (settings, summary, counts, checksums)
    num_users           users in `offsets`
    num_items           I: items and the padding row 0; indices run from 1 by falling frequency
    num_interactions    nnz
    items (nnz,)        int32, read-only map of the file
    offsets (U+1,)      int64, user u has items[offsets[u]:offsets[u+1]]
    train_users (n,)    int32;  train_spans (n, 2) int64: [start, end) in items to train on
    checksum            CRC-32 of the manifest, which holds those of the files: identifies the data
    """

    def __init__(self, path: Path, manifest: dict[str, Any], arrays: dict[str, Array], crc: str):
        self.path = path
        self.manifest = manifest
        self.checksum = crc
        self.num_users: int = manifest["counts"]["users"]
        self.num_items: int = manifest["counts"]["items"] + 1
        self.num_interactions: int = manifest["counts"]["interactions"]
        self.items = arrays["items.npy"]
        self.offsets = arrays["offsets.npy"]
        self.train_users = arrays["train_users.npy"]
        self.train_spans = arrays["train_spans.npy"]
        self._eval = {
            name: EvalSplit(arrays[f"{name}_users.npy"], arrays[f"{name}_spans.npy"])
            for name in ("valid", "test")
        }

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> "Dataset":
        """Open a folder made by `prepare`. `verify=False` skips the checksums, nothing else.

        Raises DataError when the folder is not a dataset of this version, CorruptFileError when a
        file is missing or is not what was written.
        """
        path = Path(path)
        manifest, crc = _read_manifest(path)
        for name in (*ARRAYS, *TABLES):
            expected = manifest["files"][name]
            if verify:
                files.verify(path / name, expected)
            else:
                _check_size(path / name, expected["bytes"])
        arrays = {name: _map_array(path / name, *form) for name, form in ARRAYS.items()}
        _check_counts(path, manifest["counts"], arrays)
        _check_ranges(path, manifest["counts"], arrays)
        return cls(path, manifest, arrays, crc)

    def eval_split(self, name: str) -> EvalSplit:
        """The users held out as "valid" or "test"."""
        if name not in self._eval:
            raise ValueError(f"unknown split {name!r}; expected 'valid' or 'test'")
        return self._eval[name]

    @cached_property
    def item_table(self) -> "pl.DataFrame":
        """item_id, index (int32), count (int64): one row an item, in the order of the index."""
        return self._table("items.parquet", self.num_items - 1, first=1)

    @cached_property
    def user_table(self) -> "pl.DataFrame":
        """user_id, index (int32): one row a user, in the order of the index."""
        return self._table("users.parquet", self.num_users, first=0)

    def _table(self, name: str, rows: int, first: int) -> "pl.DataFrame":
        import polars as pl  # heavy, and not needed for training

        table = pl.read_parquet(self.path / name)
        if not np.array_equal(table["index"].to_numpy(), np.arange(first, first + rows)):
            raise CorruptFileError(f"{self.path / name}: expected the indices of {rows} rows")
        return table


def _read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    file = path / "manifest.json"
    try:
        raw = file.read_bytes()
    except OSError:
        raise DataError(
            f"{path}: not a prepared dataset: got no readable manifest.json, "
            "expected a folder written by `remi-fast prepare`"
        ) from None
    try:
        manifest = json.loads(raw)
        form, version = manifest["format"], manifest["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptFileError(f"{file}: not a dataset manifest: {error}") from None
    if form != FORMAT or version != VERSION:
        raise DataError(
            f"{file}: got format {form!r} version {version!r}, "
            f"expected {FORMAT!r} version {VERSION}"
        )
    try:
        counts = [manifest["counts"][name] for name in ("users", "items", "interactions")]
        sizes = [manifest["files"][name]["bytes"] for name in (*ARRAYS, *TABLES)]
        sums = [manifest["files"][name]["crc32_per_4MiB"] for name in (*ARRAYS, *TABLES)]
    except (KeyError, TypeError) as error:
        raise CorruptFileError(f"{file}: entry {error} is missing") from None
    if not all(type(n) is int and n >= 0 for n in counts + sizes):
        raise CorruptFileError(f"{file}: counts and sizes must be whole numbers")
    if not all(isinstance(s, list) for s in sums):
        raise CorruptFileError(f"{file}: checksums must be lists")
    return manifest, f"{zlib.crc32(raw):08x}"


def _check_size(path: Path, expected: int) -> None:
    got = path.stat().st_size if path.is_file() else None
    if got != expected:
        raise CorruptFileError(f"{path}: got {got} bytes, expected {expected}")


def _map_array(path: Path, dtype: type[np.signedinteger[Any]], columns: int) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise CorruptFileError(f"{path}: not a .npy array: {error}") from None
    shape = array.shape[1:]
    if array.dtype != dtype or array.ndim == 0 or shape != ((columns,) if columns else ()):
        raise CorruptFileError(
            f"{path}: got {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} "
            + (f"of {columns} columns" if columns else "of one dimension")
        )
    return array


def _check_counts(path: Path, counts: dict[str, int], arrays: dict[str, Array]) -> None:
    expected = {"items.npy": counts["interactions"], "offsets.npy": counts["users"] + 1}
    for part in ("train", "valid", "test"):
        expected[f"{part}_spans.npy"] = len(arrays[f"{part}_users.npy"])
    for name, rows in expected.items():
        if len(arrays[name]) != rows:
            raise CorruptFileError(f"{path / name}: got {len(arrays[name])} rows, expected {rows}")


def _check_ranges(path: Path, counts: dict[str, int], arrays: dict[str, Array]) -> None:
    """Every index must point inside its target, so that no reader needs to look again."""
    items, offsets = arrays["items.npy"], arrays["offsets.npy"]
    if items.size and not (items.min() >= 1 and items.max() <= counts["items"]):
        raise CorruptFileError(
            f"{path / 'items.npy'}: got indices {items.min()}..{items.max()}, "
            f"expected 1..{counts['items']}"
        )
    if offsets[0] != 0 or offsets[-1] != len(items) or (offsets[1:] < offsets[:-1]).any():
        raise CorruptFileError(
            f"{path / 'offsets.npy'}: expected ascending offsets from 0 to {len(items)}"
        )
    for part in ("train", "valid", "test"):
        users, spans = arrays[f"{part}_users.npy"], arrays[f"{part}_spans.npy"]
        if users.size and not (users.min() >= 0 and users.max() < counts["users"]):
            raise CorruptFileError(
                f"{path / f'{part}_users.npy'}: got {users.min()}..{users.max()}, "
                f"expected users 0..{counts['users'] - 1}"
            )
        inside = (spans[:, 0] >= offsets[users]) & (spans[:, -1] <= offsets[users + 1])
        inside &= (spans[:, 1:] > spans[:, :-1]).all(axis=1)
        if not inside.all():
            row = int(inside.argmin())
            raise CorruptFileError(
                f"{path / f'{part}_spans.npy'}: row {row} is {spans[row].tolist()}, expected "
                f"ascending positions inside user {users[row]}'s "
                f"{offsets[users[row]]}..{offsets[users[row] + 1]}"
            )
