"""What the command line does, as functions: train, resume, load."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from remi_fast.config import DEMO, Config
from remi_fast.data.dataset import Dataset
from remi_fast.errors import DataError
from remi_fast.training import trainer
from remi_fast.training.run_folder import RunFolder

if TYPE_CHECKING:
    from remi_fast.retrieval.recommend import Recommender


def train(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Train a model and write a run folder.

    Args:
        data: a folder made by `remi-fast prepare`, a raw file (prepared inside the run folder
            with the default settings), or "demo" (a generated, synthetic dataset).
        out: the run folder, which must not exist.
        config: the published settings if None.

    Returns:
        The contents of result.json; {"interrupted": True, "step": n} after Ctrl-C.

    Raises:
        RunFolderError: `out` exists. DataError, CorruptFileError, ConfigError: data or settings
        cannot be used; no run folder is left behind then. NonFiniteError: the loss stopped being
        finite. StorageError: the disk is full or failed; once it is well, `resume` goes on.
    """
    config = Config() if config is None else config
    if not isinstance(config, Config):
        raise TypeError(f"config: got {config!r:.100}, expected a remi_fast.Config")
    run = RunFolder(Path(out))
    with RunFolder.create(run.path, config) as new:
        dataset = open_data(data, new.path / "data")
        trainer.check(dataset, config)
        new.record_data(dataset)
    with run.training():
        return trainer.start(Dataset.open(run.data()[0], verify=False), run, config)


def resume(run: str | Path) -> dict[str, Any]:
    """Continue a run from its last checkpoint, bit for bit as if it had never stopped.

    Raises RunFolderError where there is nothing to continue, or another process trains in `run`.
    """
    return trainer.resume(Path(run))


def open_data(data: str | Path, prepare_in: Path) -> Dataset:
    """Open a prepared folder, or prepare a raw file or the demo data in `prepare_in`."""
    if str(data) == DEMO:
        from remi_fast.data.demo import prepare_demo

        return prepare_demo(prepare_in)
    path = Path(data)
    if (path / "manifest.json").is_file():
        return Dataset.open(path)
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder, expected a prepared folder, a raw file, or {DEMO!r}"
        )
    run = RunFolder(path)
    if run.data_file.is_file():
        raise DataError(
            f"{path}: a run folder, expected data: continue it with `--out {path} --resume`, "
            f"or give what it was trained on, {run.data()[0]}"
        )
    from remi_fast.data.prepare import PrepareSettings, prepare

    return prepare([path], prepare_in, PrepareSettings())


def load(run: str | Path) -> "Recommender":
    """The best model of a run, ready to recommend.

    Raises RunFolderError if `run` is not a run folder or has no best checkpoint yet,
    CorruptFileError if a file of it was damaged.
    """
    from remi_fast.data.dataset import read_table
    from remi_fast.retrieval.recommend import Recommender

    folder = RunFolder.open(Path(run))
    config, items = folder.config(), read_table(*folder.items(), first=1)
    trainer.set_threads(config.train.threads)
    return Recommender(trainer.load_model(folder, config, len(items) + 1), items)
