"""What the in-batch samplers are corrected for is what the loader draws."""

import numpy as np
import pytest

from remi_fast.config import TrainConfig
from remi_fast.data.loader import BatchLoader
from remi_fast.training.frequencies import target_frequencies


@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
@pytest.mark.parametrize("min_history", [1, 4])
def test_targets_come_as_often_as_said(dataset, min_history, sampling):
    train = TrainConfig(min_history=min_history, sampling=sampling)
    expected = target_frequencies(dataset, train).numpy()
    assert expected.sum() == pytest.approx(1) and expected[0] == 0
    drawn = np.zeros(dataset.num_items)
    options = {"batch_size": 32, "max_history": 5, "seed": 3, "threads": 1}
    options |= {"min_history": min_history, "sampling": sampling}
    with BatchLoader(dataset.items, dataset.train_users, dataset.train_spans, **options) as batches:
        for _ in range(2000):
            target = next(batches).target.numpy()
            drawn += np.bincount(target, minlength=dataset.num_items)
    assert (drawn[expected == 0] == 0).all()
    expected *= drawn.sum()
    # 2 % of the frequency, five deviations of independent draws
    assert (np.abs(drawn - expected) <= 0.02 * expected + 5 * np.sqrt(expected)).all()


def test_without_a_target_nothing_is_frequent(dataset):
    assert not target_frequencies(dataset, TrainConfig(min_history=2**20)).any()
