"""manifest.json of an export: what the files are, with their sizes and SHA-256."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from remi_fast import files
from remi_fast.errors import CorruptFileError, RunFolderError

FORMAT = {"format": "remi-fast-export", "version": 1}
MANIFEST = "manifest.json"
ITEMS = "items.parquet"
# Of each format, its file.
FORMATS = {
    "safetensors": "item_embeddings.safetensors",
    "npy": "item_embeddings.npy",
    "parquet": "item_embeddings.parquet",
    "faiss": "items.faiss",
    "torch": "user_encoder.pt2",
    "onnx": "user_encoder.onnx",
}
_HASHED_AT_ONCE = 4  # files


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write manifest.json: `content`, and what lies in the folder."""
    listed = {path.name: _measured(path) for path in sorted(folder.iterdir())}
    files.write_checked_json(folder / MANIFEST, FORMAT | content | {"files": listed})


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of an export, whose files are all as it lists them.

    Raises RunFolderError where there is none, or of another version; CorruptFileError, naming the
    file, where something is missing or changed. Files that it does not list are left alone.
    """
    file = folder / MANIFEST
    if not file.is_file():
        what = "not an export" if folder.is_dir() else "no such folder"
        raise RunFolderError(
            f"{folder}: {what}: got no {MANIFEST}, expected a folder made by `remi-fast export`"
        )
    manifest = files.read_checked_json(file)
    got = {key: manifest.get(key) for key in FORMAT}
    if got != FORMAT:
        raise RunFolderError(f"{file}: got {got}, expected {FORMAT}")
    _check_form(file, manifest)
    listed = manifest["files"]
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        list(pool.map(_verify, map(folder.joinpath, listed), listed.values()))
    return manifest


def _check_form(file: Path, manifest: dict[str, Any]) -> None:
    listed, model = manifest.get("files"), manifest.get("model")
    if not isinstance(listed, dict) or ITEMS not in listed:
        raise CorruptFileError(f"{file}: got files {listed!r:.100}, expected {ITEMS} and others")
    for name in listed:
        if Path(name).name != name:
            raise CorruptFileError(f"{file}: lists {name!r:.100}, expected names in this folder")
    numbers = [manifest.get("items")]
    if isinstance(model, dict):
        numbers += [model.get(key) for key in ("num_interests", "dim", "max_history")]
    if len(numbers) < 4 or not all(type(n) is int and 0 < n < 2**31 for n in numbers):
        raise CorruptFileError(
            f"{file}: got model {model!r:.100} and items {manifest.get('items')!r:.20}, expected "
            "num_interests, dim, max_history and items, whole numbers >= 1"
        )


def _measured(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _verify(path: Path, expected: Any) -> None:
    if not path.is_file():
        raise CorruptFileError(f"{path}: file is missing, expected {expected!r:.120}")
    got = _measured(path)
    if got != expected:
        raise CorruptFileError(
            f"{path}: got {got}, expected {expected!r:.120}: damaged, or not of this export"
        )
