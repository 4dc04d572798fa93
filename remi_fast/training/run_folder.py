"""The folder of one training run: what is in it, and how it is opened."""

import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from remi_fast import files
from remi_fast.config import Config, as_yaml, load_config
from remi_fast.data.dataset import Dataset
from remi_fast.errors import CorruptFileError, DataError, RunFolderError

MIRRORED_AT_A_TIME = 10  # lines: TensorBoard's thread holds up the step that comes next

logger = logging.getLogger(__name__)


class RunFolder:
    """Paths and small files of a run; see docs/run_folder.md for the contents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.data_file = path / "data.json"
        self.items_file = path / "items.parquet"
        self.last = path / "checkpoints" / "last"
        self.best = path / "checkpoints" / "best"

    @classmethod
    @contextmanager
    def create(cls, path: Path, config: Config) -> Iterator["RunFolder"]:
        """Yield a new run folder, to `record_data` in; it becomes `path` when the block ends.

        So a run that is there knows its data. Raises RunFolderError if the path exists.
        """
        if path.exists():
            raise RunFolderError(
                f"{path}: exists already, and a run is never overwritten; "
                "give another --out, or continue it with --resume"
            )
        with files.new_folder(path) as new:
            run = cls(new)
            run.last.parent.mkdir()
            text = as_yaml(config)
            files.write_file(run.config_file, lambda p: p.write_text(text, encoding="utf-8"))
            files.write_json(new / "env.json", environment())
            yield run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run. Raises RunFolderError if it is not one."""
        run = cls(path)
        if not run.config_file.is_file():
            what = "no such folder" if not path.exists() else "not a run folder"
            raise RunFolderError(f"{path}: {what}, expected a folder made by `remi-fast train`")
        return run

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keep other processes from training in the folder. Raises RunFolderError if one does."""
        with files.locked(self.path) as mine:
            if mine is False:
                raise RunFolderError(f"{self.path}: another process is training in it")
            yield

    def recover(self) -> None:
        """Make good what a process left that was killed while it wrote, as none does now."""
        for checkpoint in (self.last, self.best):
            files.recover_folder(checkpoint)
        for folder in (self.path, self.last.parent):
            files.remove_temporaries(folder)

    def config(self) -> Config:
        """The resolved configuration of the run. Raises CorruptFileError if it was changed."""
        self._verify(self.config_file)
        return load_config(self.config_file)

    def record_data(self, dataset: Dataset) -> None:
        """Remember which prepared dataset the run trains on, and keep its item table.

        data.json also holds the checksums of what else decides how the run goes on.
        """
        table = dataset.path / self.items_file.name
        files.write_file(self.items_file, lambda p: shutil.copyfile(table, p))
        inside = dataset.path.is_relative_to(self.path)
        record = {
            "path": str(dataset.path.relative_to(self.path) if inside else dataset.path.resolve()),
            "checksum": dataset.checksum,
            "items": dataset.num_items - 1,
            "files": {
                self.config_file.name: files.checksums(self.config_file),
                self.items_file.name: dataset.manifest["files"][self.items_file.name],
            },
        }
        files.write_checked_json(self.data_file, record)

    def data(self) -> tuple[Path, str]:
        """Path and checksum of the dataset the run trains on."""
        record = self._record()
        return self.path / record["path"], record["checksum"]

    def dataset(self) -> Dataset:
        """The dataset the run trains on. Raises DataError if it is gone, or another one now."""
        path, checksum = self.data()
        if not path.is_dir():
            raise DataError(
                f"{self.data_file}: the dataset of the run is gone: got no folder {path}; "
                "move it back"
            )
        dataset = Dataset.open(path)
        if dataset.checksum != checksum:
            raise DataError(
                f"{path}: the dataset changed since the run began: got checksum "
                f"{dataset.checksum}, expected {checksum} as in {self.data_file}"
            )
        return dataset

    def items(self) -> tuple[Path, int]:
        """Path and rows of the item table. Raises CorruptFileError if it was changed."""
        self._verify(self.items_file)
        return self.items_file, self._record()["items"]

    def _verify(self, path: Path) -> None:
        files.verify(path, self._record()["files"].get(path.name))

    def _record(self) -> dict[str, Any]:
        if not self.data_file.is_file():
            raise RunFolderError(
                f"{self.data_file}: file is missing, expected it in a folder made by "
                "`remi-fast train`"
            )
        record = files.read_checked_json(self.data_file)
        for key, kind in (("path", str), ("checksum", str), ("items", int), ("files", dict)):
            if type(record.get(key)) is not kind:
                raise CorruptFileError(
                    f"{self.data_file}: got {key} {record.get(key)!r:.100}, "
                    f"expected a {kind.__name__}"
                )
        return record


class MetricsLog:
    """metrics.jsonl, one JSON object a line, mirrored to TensorBoard some lines at a time.

    A line that cannot be written ends the run with a StorageError. The mirror is given up with a
    warning where it cannot be written: metrics.jsonl has all that it would have.
    """

    def __init__(self, run: RunFolder, resume_step: int) -> None:
        """Append to the run's log; drop what was logged after `resume_step`."""
        self._path = run.metrics_file
        if self._path.exists():
            lines = self._path.read_bytes().splitlines(keepends=True)
            kept = b"".join(line for line in lines if _step_of(line) <= resume_step)
            files.write_file(self._path, lambda p: p.write_bytes(kept))
        with files.storing(self._path):
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        self._board: Any = None
        self._waiting: list[tuple[float, dict[str, Any]]] = []  # for TensorBoard, and since when
        with self._mirroring():
            self._board = _tensorboard(run.path, resume_step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        with self._mirroring():
            if self._board is not None:
                self._mirror()
                self._board.close()

    def write(self, record: dict[str, Any]) -> None:
        """Log one record, which has a "step"."""
        line = (json.dumps(record) + "\n").encode()
        with files.storing(self._path):
            while line:  # a full disk takes the first part
                line = line[self._file.write(line) :]
        if self._board is None:
            return
        self._waiting.append((time.time(), record))
        if "split" in record or len(self._waiting) >= MIRRORED_AT_A_TIME:
            with self._mirroring():
                self._mirror()

    def _mirror(self) -> None:
        for since, record in self._waiting:
            prefix = record.get("split", "train")
            for key, value in record.items():
                if key not in ("step", "split", "seconds"):
                    self._board.add_scalar(f"{prefix}/{key}", value, record["step"], since)
        self._waiting.clear()

    @contextmanager
    def _mirroring(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._board = None
            logger.warning("%s: no TensorBoard log from now on (%s)", self._path.parent, error)


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):  # cut off by a kill, or damaged
        return float("inf")


def _tensorboard(path: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # a machine with little more than torch: metrics.jsonl has it all
        return None
    return SummaryWriter(str(path / "tensorboard"), purge_step=resume_step + 1)


def environment() -> dict[str, Any]:
    """Versions and hardware, as env.json holds them and `remi-fast info` prints them."""
    import numpy
    import torch
    import triton

    import remi_fast

    return {
        "remi_fast": remi_fast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
