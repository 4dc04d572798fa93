"""How often items occur in training: as interactions, and as targets."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from remi_fast.config import TrainConfig
from remi_fast.data.dataset import Dataset


def training_counts(dataset: Dataset) -> Tensor:
    """How often each item occurs in the training spans: (I,) float32, exact below 2^24."""
    items = _items_of(dataset, *dataset.train_spans.T)
    return torch.from_numpy(np.bincount(items, minlength=dataset.num_items)).float()


def target_frequencies(dataset: Dataset, train: TrainConfig) -> Tensor:
    """Share of the training targets that each item is: (I,) float64, of sum 1.

    With sampling "uniform" each user is drawn as often, so the targets of short histories weigh
    more than as interactions; with "epoch" every target comes once. All 0 without a target.
    """
    start, end = dataset.train_spans.T
    start = np.minimum(start + train.min_history, end)
    lengths = end - start
    weights = np.repeat(1.0 / lengths[lengths > 0], lengths[lengths > 0])
    if train.sampling == "epoch":
        weights[:] = 1.0
    items = _items_of(dataset, start, end)
    shares = np.bincount(items, weights, minlength=dataset.num_items)
    return torch.from_numpy(shares / max(shares.sum(), 1e-300))


def _items_of(
    dataset: Dataset, start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """The items of spans that do not overlap, in the order of the dataset."""
    marks = np.zeros(dataset.num_interactions + 1, dtype=np.int8)
    np.add.at(marks, start, 1)
    np.add.at(marks, end, -1)
    inside = marks[:-1].cumsum(dtype=np.int8).view(np.bool_)
    return dataset.items[inside]
