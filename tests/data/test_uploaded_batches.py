"""Batches that the host makes, for steps of the device."""

import pytest
import torch

from remi_fast.data.loader import BatchLoader
from remi_fast.data.uploaded_batches import UploadedBatches
from tests.data.test_device_loader import MANY, OPTIONS, assert_same
from tests.data.test_loader import make
from tests.device import DEVICE


@pytest.fixture
def uploaded():
    loader = BatchLoader(*make(MANY), **OPTIONS, threads=2, start_step=5)
    batches = UploadedBatches(loader, torch.device(DEVICE))
    yield batches, loader
    batches.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)


def test_the_batches_of_the_loader(uploaded):
    """In the same memory every time, one copy for all; both parts of pinned memory."""
    batches, loader = uploaded
    slots, number = batches.slots(3), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    assert all(tensor.count_nonzero() == 0 for slot in slots for tensor in slot)
    step = 5
    for count in (3, 1, 2, 3, 3):
        batches.fill(step, count)
        for i in range(count):
            batch = batches.draw(number, slots[i])
            assert batch.step is number and batch.history is slots[i].history
            assert_same(batch, loader.batch(step + i))
        step += count


def test_a_batch_by_its_number(uploaded):
    batches, loader = uploaded
    batch = batches.batch(3)
    assert batch.step == 3
    assert_same(batch, loader.batch(3))


def test_another_step_than_the_next(uploaded):
    batches, _ = uploaded
    batches.slots(1)
    with pytest.raises(ValueError, match="step: got 6, expected 5, the loader's next one"):
        batches.fill(6, 1)
