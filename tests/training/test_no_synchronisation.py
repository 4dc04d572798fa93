"""Nothing in a step on the device waits for it, leaves it, or depends on values of tensors: a CUDA
graph can hold it."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

import remi_fast.optim
from remi_fast.data.device_loader import DeviceBatchLoader
from remi_fast.kernels import (
    capsule_routing_launch,
    deferred_adam_launch,
    dense_adam_launch,
    device_batches_launch,
    ihn_loss_launch,
    runtime,
    self_attentive_launch,
    step_guard_launch,
)
from remi_fast.training import device_step as device_step_module
from remi_fast.training import step as step_module
from remi_fast.training.device_step import DeviceStep
from tests.device import DEVICE
from tests.kernels import test_no_synchronisation as loss
from tests.training.test_device_step import DRAWING, made, sequences

# Besides those of the loss: allocations, views, and kernels whose output sizes follow from the
# sizes of their inputs. The profiler's: torch's optimizers tell it of themselves.
ALLOWED = loss.ALLOWED | {
    "aten._unsafe_view.default",
    "aten.add.Tensor",
    "aten.add_.Tensor",
    "aten.arange.default",
    "aten.bitwise_or.Tensor",
    "aten.bmm.default",
    "aten.div.Tensor",
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.expand.default",
    "aten.ge.Scalar",
    "aten.ge.Tensor",
    "aten.index.Tensor",
    "aten.log.default",
    "aten.lt.Scalar",
    "aten.masked_fill.Scalar",
    "aten.mul.Tensor",
    "aten.new_zeros.default",
    "aten.copy_.default",
    "aten.permute.default",
    "aten.sort.stable",
    "aten.split.Tensor",
    "aten.squeeze.dim",
    "aten.split_with_sizes.default",
    "aten.transpose.int",
    "aten.view.default",
    "aten.zeros.default",
    "aten.zeros_like.default",
    "profiler._record_function_enter_new.default",
    "profiler._record_function_exit._RecordFunction",
}
LAUNCHING = (
    capsule_routing_launch,
    deferred_adam_launch,
    dense_adam_launch,
    device_batches_launch,
    ihn_loss_launch,
    runtime,  # the negatives take it from there
    self_attentive_launch,
    step_guard_launch,
)


class OnlyAllowed(loss.OnlyAllowed):
    """As of the loss; operators may also return nothing, or lists."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert str(func) in self.allowed, f"{func} is not known to run without waiting"
        kwargs = kwargs or {}
        if func in loss.OWN:
            with self:
                outputs = loss.OWN[func](*args, **kwargs)
        else:
            outputs = func(*args, **kwargs)
        read = [x for x in tree_leaves((args, kwargs, outputs)) if isinstance(x, torch.Tensor)]
        assert all(x.device.type == DEVICE for x in read), f"{func} leaves the device"
        results = [x for x in tree_leaves(outputs) if isinstance(x, torch.Tensor)]
        self.seen.append((str(func), *(tuple(x.shape) for x in results)))
        return outputs


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """What Triton's interpreter does in a launch is not what a GPU does, nor is what the CPU's own
    code does with gradients."""
    for module in LAUNCHING:

        def unseen(*args, launch=module.launch, **options):
            with _disable_current_modes():
                launch(*args, **options)

        monkeypatch.setattr(module, "launch", unseen)
    monkeypatch.setattr(remi_fast.optim, "joined", lambda parts: (torch.cat(list(parts)), True))


def device_step(loss=None, model=None):
    step = made("triton", loss, model)
    batches = DeviceBatchLoader(*sequences(), device=DEVICE, backend="triton", **DRAWING)
    device = DeviceStep(step, batches)
    device._optimizer.schedule_steps([1e-3] * 3)
    step.dense_optimizer.make_state()
    device._launch_several(1, beta=1.0)  # warm up
    return device


def operators(device):
    """Those of a step, with the sizes of what they make."""
    with OnlyAllowed(frozenset(ALLOWED)) as mode:
        device._launch_several(1, beta=1.0)
    return mode.seen


@pytest.mark.parametrize(
    "options, model",
    [
        ({}, {}),
        ({"rr_lambda": 0.0}, {}),
        ({"mask_hits": True}, {}),
        ({"replacement": False}, {}),
        ({"sampler": "log-uniform"}, {}),
        ({"sampler": "popularity"}, {}),
        ({"sampler": "in-batch"}, {}),
        ({"sampler": "mixed"}, {}),
        ({"sampler": "full"}, {}),
        ({}, {"name": "comirec-dr"}),
        ({"rr_lambda": 0.0}, {"name": "comirec-dr"}),
    ],
    ids=lambda x: "-".join(map(str, x.values())) or "default",
)
def test_a_step_waits_for_nothing(options, model):
    """The same operators with the same sizes, whatever the values."""
    device = device_step(options, model)
    first = operators(device)
    names = [name for name, *_ in first]
    assert "remi_fast.ihn_loss.default" in names
    assert first == operators(device)
    assert device._guard.read(0, 3)[0] is False
    assert device._optimizer.step_on_device.tolist() == [3]


WAITS = {
    "the number of the step is read": lambda x: x.item(),
    "sizes follow from values": torch.Tensor.nonzero,
    "a mask is an index": lambda x: x[x > 0],
    "values are counted": torch.Tensor.unique,
    "not listed": torch.Tensor.sin,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("where", ["draw", "forward", "look"])
def test_a_step_that_waits_is_seen(monkeypatch, where, wait):
    """The test of the test."""
    device = device_step()
    owner, name = {
        "draw": (device._batches, "draw"),
        "forward": (step_module.TrainingStep, "forward"),
        "look": (step_module.TrainingStep, "backward"),
    }[where]
    original = getattr(owner, name)

    def waiting(*args, **kwargs):
        wait(device._number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, waiting)
    with pytest.raises(AssertionError, match="is not known to run without waiting"):
        operators(device)


def test_what_runs_beside_is_waited_for(monkeypatch):
    """The order of launches, branches and waits in two steps that are launched at once. What is not
    beside anything is a chain of ten launches a step, and torch's joining and counting; by way of
    the extractor's update, of ten, and torch's joining."""
    order = []

    class Watched:
        names = iter(("ahead", "beside"))

        def __init__(self, device):
            self.name, self.marks = next(self.names), 0

        @contextmanager
        def launches(self):
            order.append(f"{self.name} begins")
            yield
            order.append(f"{self.name} ends")

        def mark(self):
            self.marks += 1
            order.append(f"mark {self.marks} of {self.name}")
            return partial(order.append, f"wait for {self.marks} of {self.name}")

    monkeypatch.setattr(device_step_module, "SideStream", Watched)
    device = device_step()
    order.clear()
    device._ahead.marks = device._beside.marks = 0
    for module in LAUNCHING:

        def noted(kernel, *args, launch=module.launch, **options):
            order.append(kernel.__name__.removesuffix("_kernel"))
            if order[-1] == "dense_adam":  # the step is counted on beside it
                read = {x.data_ptr() for x in args if isinstance(x, torch.Tensor)}
                assert device._number.data_ptr() not in read
            launch(kernel, *args, **options)

        monkeypatch.setattr(module, "launch", noted)
    device._launch_several(2, beta=1.0)
    prepared = [
        part for i in (1, 2) for part in ("draw_batch", "sample_negatives", f"mark {i} of ahead")
    ]
    chain = (
        "catch_up read attention partials combine negative_gradients row_gradients gradients sum"
    )
    expected = ["ahead begins", *prepared, "ahead ends"]
    for i in (1, 2):
        looked, updated = 2 * i - 1, 2 * i
        expected += [
            f"wait for {i} of ahead", *chain.split(),
            "beside begins", "look", f"mark {looked} of beside", "dense_adam",
            f"mark {updated} of beside", "beside ends",
            "carry", f"wait for {looked} of beside", "update", f"wait for {updated} of beside",
        ]  # fmt: skip
    assert order == expected
