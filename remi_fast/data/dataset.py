"""A prepared dataset on disk, memory-mapped: what training, evaluation and export read."""

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
MANIFEST = "manifest.json"

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
TABLES = {
    "items.parquet": ("item_id", "index", "count"),
    "users.parquet": ("user_id", "index"),
}


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

    def __init__(self, path: Path, manifest: dict[str, Any], arrays: dict[str, Array]):
        self.path = path
        self.manifest = manifest
        self.checksum: str = manifest["crc32"]
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
        """Open a folder made by `prepare`. `verify=False` skips the files' checksums.

        Raises DataError when the folder is not a dataset of this version, CorruptFileError when a
        file is missing, is not what was written, or was not written by `prepare`.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if verify:
            files.verify_folder(path, MANIFEST, manifest["files"])
        arrays = {name: _map_array(path / name, *form) for name, form in ARRAYS.items()}
        _check_counts(path, manifest["counts"], arrays)
        _check_ranges(path, manifest["counts"], arrays)
        return cls(path, manifest, arrays)

    def eval_split(self, name: str) -> EvalSplit:
        """The users held out as "valid" or "test"."""
        if name not in self._eval:
            raise ValueError(f"unknown split {name!r}; expected 'valid' or 'test'")
        return self._eval[name]

    @cached_property
    def item_table(self) -> "pl.DataFrame":
        """item_id, index (int32), count (int64): one row an item, in the order of the index."""
        return read_table(self.path / "items.parquet", self.num_items - 1, first=1)

    @cached_property
    def user_table(self) -> "pl.DataFrame":
        """user_id, index (int32): one row a user, in the order of the index."""
        return read_table(self.path / "users.parquet", self.num_users, first=0)


def read_table(path: Path, rows: int, first: int) -> "pl.DataFrame":
    """items.parquet or users.parquet: so many rows, indices from `first` on, in order.

    Raises CorruptFileError.
    """
    import polars as pl  # heavy, and not needed for training

    try:
        scan = pl.scan_parquet(path, glob=False)
        schema = scan.collect_schema()
        found = scan.select(pl.len()).collect().item()  # from the footer: nothing is decoded
        types: list[list[Any]] = [
            [pl.Int64, pl.String],
            [pl.Int32],
            [pl.Int64],
        ]  # an id, index, count
        fits = all(a in b for a, b in zip(schema.dtypes(), types, strict=False))
        if tuple(schema) != TABLES[path.name] or not fits or found != rows:
            raise CorruptFileError(
                f"{path}: got {found} rows of {dict(schema)}, expected {rows} rows of "
                f"{', '.join(TABLES[path.name])}: an id, Int32, Int64"
            )
        table = scan.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise CorruptFileError(f"{path}: not a table: {str(error).splitlines()[0]}") from None
    if not np.array_equal(table["index"].to_numpy(), np.arange(first, first + rows)):
        raise CorruptFileError(f"{path}: expected the indices {first}..{first + rows - 1} in order")
    return table


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise DataError(
            f"{path}: not a prepared dataset: got no {MANIFEST}, "
            "expected a folder written by `remi-fast prepare`"
        )
    manifest = files.read_checked_json(file)
    form, version = manifest.get("format"), manifest.get("version")
    if form != FORMAT or version != VERSION:
        raise DataError(
            f"{file}: got format {form!r} version {version!r}, "
            f"expected {FORMAT!r} version {VERSION}"
        )
    try:
        counts = [manifest["counts"][name] for name in ("users", "items", "interactions")]
        listed = set(manifest["files"])
    except (KeyError, TypeError) as error:
        raise CorruptFileError(f"{file}: entry {error} is missing") from None
    if not all(type(n) is int and 0 <= n < 2**31 for n in counts[:2]) or type(counts[2]) is not int:
        raise CorruptFileError(f"{file}: got counts {counts}, expected whole numbers below 2^31")
    if listed != {*ARRAYS, *TABLES}:
        raise CorruptFileError(
            f"{file}: lists the files {sorted(listed)}, expected {sorted({*ARRAYS, *TABLES})}"
        )
    return manifest


def _map_array(path: Path, dtype: type[np.signedinteger[Any]], columns: int) -> Array:
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r")  # no pickle, whatever it holds
    except Exception as error:  # what NumPy's parser of a header raises is not documented
        raise CorruptFileError(f"{path}: not a .npy array: {error}") from None
    shape = array.shape[1:]
    if array.dtype != dtype or array.ndim == 0 or shape != ((columns,) if columns else ()):
        raise CorruptFileError(
            f"{path}: got {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} "
            + (f"of {columns} columns" if columns else "of one dimension")
        )
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise CorruptFileError(f"{path}: expected an aligned array in C order")
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
        for column in range(1, spans.shape[1]):
            inside &= spans[:, column] > spans[:, column - 1]
        if not inside.all():
            row = int(inside.argmin())
            raise CorruptFileError(
                f"{path / f'{part}_spans.npy'}: row {row} is {spans[row].tolist()}, expected "
                f"ascending positions inside user {users[row]}'s "
                f"{offsets[users[row]]}..{offsets[users[row] + 1]}"
            )
