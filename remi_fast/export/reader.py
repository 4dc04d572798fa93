"""Reading an export back. Imports no torch."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remi_fast.data.dataset import read_table
from remi_fast.errors import CorruptFileError, RunFolderError
from remi_fast.export.manifest import FORMATS, ITEMS, read_manifest
from remi_fast.extras import load

if TYPE_CHECKING:
    import polars as pl

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Encoder = Callable[[Ints, Ints], Floats]


class Export:
    """An export whose files are what its manifest lists; made by `load_export(folder)`.

    path, manifest              the folder and its manifest
    num_items                   I, with the padding row 0
    num_interests, dim, max_history    K, d, L
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.num_items: int = manifest["items"] + 1
        model = manifest["model"]
        self.num_interests: int = model["num_interests"]
        self.dim: int = model["dim"]
        self.max_history: int = model["max_history"]

    @cached_property
    def items(self) -> "pl.DataFrame":
        """item_id, index (1..I-1), count: one row an item, in the order of the index."""
        return read_table(self.path / ITEMS, self.num_items - 1, first=1)

    def item_embeddings(self) -> Floats:
        """(I, d) float32, a read-only map of the .npy file; row 0 is padding."""
        path = self._file("npy")
        try:
            vectors: Floats = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # what NumPy's parser of a header raises is not documented
            raise CorruptFileError(f"{path}: not a .npy array: {error}") from None
        shape = (self.num_items, self.dim)
        if vectors.dtype != np.float32 or vectors.shape != shape:
            raise CorruptFileError(
                f"{path}: got {vectors.dtype} of shape {vectors.shape}, expected float32 {shape}"
            )
        return vectors

    def user_encoder(self, threads: int = 0) -> Encoder:
        """The ONNX encoder in onnxruntime, on so many threads (0: one a core).

        A function of history (B, L) int64, item indices right-padded with 0, and length (B,) int64
        to the interests (B, K, d) float32. Needs the extra `export`.
        """
        path = self._file("onnx")
        return onnx_encoder(path, threads)

    def index(self) -> Any:
        """The faiss index, whose ids are the item indices. Needs the extra `faiss`."""
        path = self._file("faiss")
        return load("faiss", "faiss", path.name).read_index(str(path))

    def has(self, format: str) -> bool:
        """Whether it was exported in this format, one of `FORMATS`."""
        return FORMATS[format] in self.manifest["files"]

    def _file(self, format: str) -> Path:
        if not self.has(format):
            raise RunFolderError(
                f"{self.path}: got an export without {FORMATS[format]}, expected one that was made "
                f"with {format!r} among its --formats"
            )
        return self.path / FORMATS[format]


def load_export(folder: str | Path) -> Export:
    """Open a folder made by `remi-fast export`, and verify every file that its manifest lists.

    Raises RunFolderError if it is not one, CorruptFileError, naming file, got and expected, if a
    file is missing or was changed.
    """
    path = Path(folder)
    export = Export(path, read_manifest(path))
    export.items  # noqa: B018  (its rows are verified)
    return export


def onnx_encoder(path: Path, threads: int = 0) -> Encoder:
    """See `Export.user_encoder`. Raises ConfigError without onnxruntime, CorruptFileError where it
    refuses the file."""
    onnxruntime = load("onnxruntime", "export", path.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise CorruptFileError(f"{path}: not readable by onnxruntime: {error!s:.200}") from None

    def encode(history: Ints, length: Ints) -> Floats:
        inputs = {"history": history, "length": length}
        interests: Floats = session.run(["interests"], inputs)[0]
        return interests

    return encode
