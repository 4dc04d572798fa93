"""The loader on the device against `BatchLoader`: the same batches, properties and errors."""

import numpy as np
import pytest
import torch

from remi_fast.data.device_loader import DeviceBatchLoader
from remi_fast.data.loader import BatchLoader
from remi_fast.errors import DataError
from tests.data.test_loader import broken, make, set_to
from tests.device import DEVICE

MANY = tuple(5 + i % 30 for i in range(200))  # fewer rounds of permuting than six users take
OPTIONS = {"batch_size": 4, "max_history": 6, "seed": 2**40 + 3}


def device_loader(data=None, **changes):
    data = make(MANY) if data is None else data
    return DeviceBatchLoader(*data, **OPTIONS | {"device": DEVICE, "backend": "triton"} | changes)


def host_loader(data=None, **changes):
    return BatchLoader(*(make(MANY) if data is None else data), **OPTIONS | changes, threads=1)


def assert_same(batch, expected):
    for one, other in zip(batch[1:], expected[1:], strict=True):
        assert one.device.type == DEVICE and one.dtype == torch.int32
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_iterates_over_the_batches_of_the_other_loader(sampling, backend):
    options = {"sampling": sampling, "start_step": 1000, "min_history": 3}
    with device_loader(backend=backend, **options) as ours, host_loader(**options) as theirs:
        taken = [batch for batch, _ in zip(ours, range(5), strict=False)]
        for batch, expected in zip(taken, theirs, strict=False):
            assert batch.step == expected.step
            assert_same(batch, expected)
        assert_same(ours.batch(2**31), theirs.batch(2**31))
        assert ours.batch(7).step == 7


@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_draws_the_batch_of_a_step_on_the_device_into_the_same_memory(sampling):
    step = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with device_loader(sampling=sampling) as ours, host_loader(sampling=sampling) as theirs:
        addresses = set()
        for number in (0, 5, 2**31):
            step.fill_(number)
            batch = ours.draw(step)
            assert batch.step is step
            assert_same(batch, theirs.batch(number))
            other = next(ours)  # takes no part in it
            assert_same(batch, theirs.batch(number))
            assert other.history.data_ptr() != batch.history.data_ptr()
            addresses.add(tuple(tensor.data_ptr() for tensor in batch[1:]))
        assert len(addresses) == 1


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_a_graph_replays_the_step_that_is_there_by_then(sampling):
    step = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with device_loader(sampling=sampling) as ours, host_loader(sampling=sampling) as theirs:
        ours.draw(step)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            batch = ours.draw(step)
            step += 1
        step.zero_()
        for number in range(20):
            graph.replay()
            assert_same(batch, theirs.batch(number))


@pytest.mark.parametrize("changes", [{}, {"batch_size": 7}, {"batch_size": 7, "min_history": 5}])
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_properties(changes, sampling):
    changes = {"sampling": sampling} | changes
    with device_loader(make(), **changes) as ours, host_loader(make(), **changes) as theirs:
        for name in ("num_users", "skipped_users", "with_replacement"):
            value = getattr(ours, name)
            assert value == getattr(theirs, name) and type(value) is type(getattr(theirs, name))


def test_closing():
    loader = device_loader()
    next(loader)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="the batch loader is closed"):
        next(loader)
    with host_loader() as theirs:
        assert_same(loader.batch(5), theirs.batch(5))


def error_of(call):
    with pytest.raises(Exception) as caught:
        call()
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        broken("items", lambda a: a.astype(np.int64)),
        broken("items", lambda a: a.tolist()),
        broken("items", lambda a: np.repeat(a, 2)[::2]),
        broken("items", set_to(5, 0)),
        broken("users", set_to(1, 1)),
        broken("users", set_to(0, -1)),
        broken("spans", set_to((0, 0), -1)),
        broken("spans", set_to((2, 1), 10**6)),
        broken("spans", lambda a: a.ravel()),
        make(lengths=(4, 2)),
    ],
)
def test_the_same_errors_for_bad_data(data):
    kind, message = error_of(lambda: device_loader(data))
    assert kind in (DataError, TypeError)
    assert (kind, message) == error_of(lambda: host_loader(data))


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": "epochs"},
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"max_history": 0},
        {"min_history": -1},
        {"start_step": 2**32},
        {"start_step": "1"},
        {"seed": 2**64},
    ],
)
def test_the_same_errors_for_bad_arguments(change):
    kind, message = error_of(lambda: device_loader(**change))
    assert kind in (ValueError, TypeError)
    assert (kind, message) == error_of(lambda: host_loader(**change))


def test_steps_that_are_not():
    with device_loader(start_step=2**32 - 1) as ours, host_loader(start_step=2**32 - 1) as theirs:
        assert_same(next(ours), next(theirs))
        for _ in range(2):
            assert error_of(lambda: next(ours)) == error_of(lambda: next(theirs))
        for step in (-1, 2**32, 1.0, None):
            assert error_of(lambda: ours.batch(step)) == error_of(lambda: theirs.batch(step))  # noqa: B023
        with pytest.raises(ValueError, match=r"step: got \(2,\) torch.int64"):
            ours.draw(torch.zeros(2, dtype=torch.int64, device=DEVICE))


def test_a_step_past_the_last_epoch():
    data, options = make((9, 8)), {"sampling": "epoch", "batch_size": 200}
    with device_loader(data, **options) as ours, host_loader(data, **options) as theirs:
        for step in (2**28, 2**32 - 1):
            assert error_of(lambda: ours.batch(step)) == error_of(lambda: theirs.batch(step))  # noqa: B023
