"""What makes the steps of a run: on the CPU one at a time, on the device many at a time."""

import logging
from typing import Any, Protocol

import torch

from remi_fast.config import Config
from remi_fast.data.dataset import Dataset
from remi_fast.data.loader import BatchLoader
from remi_fast.training.placement import by_triton, fits, why_not_on_a_gpu
from remi_fast.training.step import StepLoss, TrainingStep

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Makes training steps, from the one it was made at."""

    def advance(self, most: int) -> list[StepLoss]:
        """Make steps, 1 to `most`; their losses. Raises NonFiniteError."""

    def close(self) -> None:
        """No step is made any more."""


class HostEngine:
    """The steps of a TrainingStep on the CPU, with batches of the C++ loader."""

    def __init__(self, training_step: TrainingStep, loader: BatchLoader, step: int) -> None:
        self._training_step, self._loader, self._step = training_step, loader, step

    def advance(self, most: int) -> list[StepLoss]:
        """One step; its loss."""
        batch = next(self._loader)
        loss = self._training_step(self._step, batch.history, batch.length, batch.target)
        self._step += 1
        return [loss]

    def close(self) -> None:
        """Stop the loader's threads."""
        self._loader.close()


def make_engine(training_step: TrainingStep, dataset: Dataset, step: int) -> Engine:
    """The engine for the device that the model is on, from this step on."""
    config, device = training_step.config, training_step.model.table.weight.device
    data = dataset.items, dataset.train_users, dataset.train_spans
    if by_triton(config, device):
        return _device_engine(training_step, dataset, step)
    if config.train.device == "auto" and torch.cuda.is_available():
        logger.warning("training on the CPU: %s", why_not_on_a_gpu(config))
    loader = BatchLoader(*data, threads=1, start_step=step, **_drawing(config))
    _warn(loader.skipped_users, loader.with_replacement, config)
    return HostEngine(training_step, loader, step)


def _device_engine(training_step: TrainingStep, dataset: Dataset, step: int) -> Engine:
    from remi_fast.data.device_loader import DeviceBatchLoader
    from remi_fast.data.uploaded_batches import UploadedBatches
    from remi_fast.training.device_step import DeviceStep

    config, device = training_step.config, training_step.model.table.weight.device
    data = dataset.items, dataset.train_users, dataset.train_spans
    if fits(dataset, config.train.min_history, device):
        drawn = DeviceBatchLoader(*data, device=device, backend="triton", **_drawing(config))
        _warn(drawn.skipped_users, drawn.with_replacement, config)
        return DeviceStep(training_step, drawn)
    loader = BatchLoader(*data, start_step=step, **_drawing(config))
    _warn(loader.skipped_users, loader.with_replacement, config)
    return DeviceStep(training_step, UploadedBatches(loader, device))


def _drawing(config: Config) -> dict[str, Any]:
    """What decides the batches."""
    train = config.train
    return {
        "batch_size": train.batch_size,
        "max_history": config.model.max_history,
        "seed": train.seed,
        "sampling": train.sampling,
        "min_history": train.min_history,
    }


def _warn(skipped_users: int, with_replacement: bool, config: Config) -> None:
    if skipped_users:
        logger.warning(
            "%d training users have fewer than %d items and are skipped",
            skipped_users,
            config.train.min_history + 1,
        )
    if with_replacement:
        logger.warning("fewer users than the batch size: batches draw with replacement")
