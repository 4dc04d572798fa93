"""The item vectors as files: safetensors, Parquet, a faiss index."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remi_fast import files
from remi_fast.errors import StorageError

if TYPE_CHECKING:
    import polars as pl

Floats = npt.NDArray[np.float32]

NAME = "item_embeddings"  # of the tensor in the safetensors file


def save_safetensors(vectors: Floats, path: Path) -> None:
    """One tensor, `item_embeddings` (I, d) float32; row 0 is padding."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({NAME: vectors}, path)
    except SafetensorError as error:
        raise StorageError(f"{path}: cannot be written ({error})") from error
    files.give_usual_mode(path)


def save_parquet(vectors: Floats, items: "pl.DataFrame", path: Path) -> None:
    """item_id, index, vector (d float32, a list of fixed size): one row an item, no padding.

    items: item_id and index, in the order of the index.
    """
    import polars as pl

    dim = pl.Array(pl.Float32, vectors.shape[1])
    vector = pl.Series("vector", vectors[1:], dtype=dim)
    table = items.select("item_id", "index").with_columns(vector)
    try:
        table.write_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise StorageError(f"{path}: cannot be written ({error})") from error


def save_index(index: Any, path: Path) -> None:
    """A faiss index. `faiss.write_index` to a path does not say when the disk is full."""
    import faiss

    with open(path, "wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
