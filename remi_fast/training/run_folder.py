"""The folder of one training run: what is in it, and how it is opened."""

import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from remi_fast import files
from remi_fast.config import Config, as_dict, load_config
from remi_fast.data.dataset import Dataset
from remi_fast.errors import CorruptFileError, RunFolderError


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
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Make a new run folder. Raises RunFolderError if the path exists."""
        if path.exists():
            raise RunFolderError(
                f"{path}: exists already, and a run is never overwritten; "
                "give another --out, or continue it with --resume"
            )
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be made ({error.strerror})") from None
        run = cls(path)
        run.last.parent.mkdir()
        text = yaml.safe_dump(as_dict(config), sort_keys=False)
        files.write_file(run.config_file, lambda p: p.write_text(text, encoding="utf-8"))
        files.write_json(path / "env.json", environment())
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run. Raises RunFolderError if it is not one."""
        run = cls(path)
        if not run.config_file.is_file():
            what = "no such folder" if not path.exists() else "not a run folder"
            raise RunFolderError(f"{path}: {what}, expected a folder made by `remi-fast train`")
        return run

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
        record = {
            "path": str(dataset.path.resolve()),
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
        return Path(record["path"]), record["checksum"]

    def items(self) -> tuple[Path, int]:
        """Path and rows of the item table. Raises CorruptFileError if it was changed."""
        self._verify(self.items_file)
        return self.items_file, self._record()["items"]

    def _verify(self, path: Path) -> None:
        files.verify(path, self._record()["files"].get(path.name))

    def _record(self) -> dict[str, Any]:
        if not self.data_file.is_file():
            raise RunFolderError(f"{self.path}: no data.json; the run ended before it had data")
        record = files.read_checked_json(self.data_file)
        for key, kind in (("path", str), ("checksum", str), ("items", int), ("files", dict)):
            if type(record.get(key)) is not kind:
                raise CorruptFileError(
                    f"{self.data_file}: got {key} {record.get(key)!r:.100}, "
                    f"expected a {kind.__name__}"
                )
        return record


class MetricsLog:
    """metrics.jsonl, one JSON object a line, mirrored to TensorBoard."""

    def __init__(self, run: RunFolder, resume_step: int | None = None) -> None:
        """Append to the run's log; on resuming, drop what was logged after `resume_step`."""
        if resume_step is not None and run.metrics_file.exists():
            lines = run.metrics_file.read_bytes().splitlines(keepends=True)
            kept = b"".join(line for line in lines if _step_of(line) <= resume_step)
            files.write_file(run.metrics_file, lambda p: p.write_bytes(kept))
        self._file = open(run.metrics_file, "a", encoding="utf-8")  # noqa: SIM115
        self._board = _tensorboard(run.path, resume_step)

    def write(self, record: dict[str, Any]) -> None:
        """Log one record, which has a "step"."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            prefix = record.get("split", "train")
            for key, value in record.items():
                if key not in ("step", "split", "seconds"):
                    self._board.add_scalar(f"{prefix}/{key}", value, record["step"])

    def close(self) -> None:
        """Flush and close both logs."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):  # cut off by a kill, or damaged
        return float("inf")


def _tensorboard(path: Path, resume_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # a machine with little more than torch: metrics.jsonl has it all
        return None
    purge = None if resume_step is None else resume_step + 1
    return SummaryWriter(str(path / "tensorboard"), purge_step=purge)


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
