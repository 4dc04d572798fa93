"""A trained model as files that other programs read, and the reader that checks them.

Reading imports no torch: a server needs NumPy, onnxruntime and, for its index, faiss.
"""

from collections.abc import Sequence
from pathlib import Path

from remi_fast.export.manifest import FORMATS
from remi_fast.export.reader import Export, load_export

__all__ = ["FORMATS", "Export", "export_run", "load_export"]


def export_run(
    run: str | Path,
    out: str | Path,
    formats: Sequence[str] = tuple(FORMATS),
    faiss_factory: str | None = None,
) -> Export:
    """Write the best model of a run to the folder `out`, which appears complete or not at all.

    Args:
        run: a folder made by `remi_fast.train`.
        out: the folder, which must not exist.
        formats: names of `FORMATS`. "onnx" and "faiss" need the extras `export` and `faiss`.
        faiss_factory: of the index, as `faiss.index_factory` takes it; Flat (exact) if None.

    Raises:
        ConfigError: a format that is unknown, or whose packages are missing.
        RunFolderError: `run` is no run, has no best checkpoint or no user vectors (model "pop");
        `out` exists. CorruptFileError: a file of the run was damaged. ExportError: an encoder does
        not compute what the model does. StorageError: the file system refused a write.
    """
    from remi_fast.export.writer import write_export

    write_export(Path(run), Path(out), formats, faiss_factory)
    return load_export(out)
