"""No operator of the fused loss waits for the device or depends on the values of tensors."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import remi_fast.functional as F
from remi_fast.kernels import ihn_loss_launch, ihn_loss_op
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from tests.device import DEVICE
from tests.kernels.test_ihn_loss import shape_triton

B, K, D, ITEMS, N, L = 3, 2, 5, 30, 20, 4

# Allocations, views, and kernels whose output sizes follow from the sizes of their inputs.
ALLOWED = {
    "aten._to_copy.default",  # on the device: another dtype
    "aten.cat.default",
    "aten.clamp.default",
    "aten.detach.default",
    "aten.embedding_dense_backward.default",
    "aten.exp.default",
    "aten.min.default",
    "aten.new_empty.default",
    "aten.slice.Tensor",
    "aten.sub.Tensor",
    "aten.unsqueeze.default",
    "aten.select.int",
    "aten.zero_.default",
    "aten._sparse_coo_tensor_with_dims_and_tensors.default",
    "remi_fast.ihn_loss.default",
    "remi_fast.ihn_loss_backward.default",
}
OWN = {
    torch.ops.remi_fast.ihn_loss.default: ihn_loss_op._ihn_loss._init_fn,
    torch.ops.remi_fast.ihn_loss_backward.default: ihn_loss_op._ihn_loss_backward._init_fn,
}


class OnlyAllowed(TorchDispatchMode):
    """Stops at an operator that is not listed; keeps the names and output sizes of the others."""

    def __init__(self, allowed=frozenset(ALLOWED)):
        super().__init__()
        self.allowed = allowed
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert str(func) in self.allowed, f"{func} is not known to run without waiting"
        kwargs = kwargs or {}
        if func in OWN:  # what is inside, too
            with self:
                outputs = OWN[func](*args, **kwargs)
        else:
            outputs = func(*args, **kwargs)
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        assert all(x.device.type == DEVICE for x in tensors), f"{func} leaves the device"
        self.seen.append((str(func), *(tuple(x.shape) for x in tensors)))
        return outputs


@pytest.fixture(autouse=True)
def kernels_apart(monkeypatch):
    """What Triton's interpreter does in a launch is not what a GPU does."""
    shape_triton(monkeypatch)
    launch = ihn_loss_launch.launch

    def unseen(*args, **kwargs):
        with _disable_current_modes():
            launch(*args, **kwargs)

    monkeypatch.setattr(ihn_loss_launch, "launch", unseen)


def make(seed):
    """Inputs of every kind of call."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "interests": (B, K, D),
        "table": (ITEMS, D),
        "routing": (B, K, L),
        "target": (B, D),
        "negatives": (N, D),
        "log_q": (N,),
        "target_log_q": (B,),
    }
    inputs = {
        name: torch.randn(s, generator=generator).to(DEVICE).requires_grad_("log_q" not in name)
        for name, s in shapes.items()
    }
    for name, count in (("target_ids", B), ("negative_ids", N)):
        inputs[name] = torch.randint(1, ITEMS, (count,), generator=generator).int().to(DEVICE)
    return SimpleNamespace(**inputs, step=torch.tensor(seed, device=DEVICE))


def rows(x):
    leaves = (x.interests, x.target, x.negatives, x.routing)
    return leaves, multi_interest_ihn_loss_rows(*leaves, beta=1.0, backend="triton")


def given(x, sparse=False):
    return (x.interests, x.table, x.routing), F.multi_interest_ihn_loss(
        x.interests, x.target_ids, x.table, x.negative_ids, routing=x.routing, beta=0.37,
        mask_hits=True, log_q=x.log_q, target_log_q=x.target_log_q, sparse=sparse,
        backend="triton",
    )  # fmt: skip


def sparse(x):
    return given(x, sparse=True)


def drawn(x):
    return (x.interests, x.table, x.routing), F.multi_interest_ihn_loss(
        x.interests, x.target_ids, x.table, num_negatives=N, step=x.step, routing=x.routing,
        beta=1.0, backend="triton",
    )  # fmt: skip


def catalogue(x):
    return (x.interests, x.table, x.routing), F.full_catalogue_ihn_loss(
        x.interests, x.target_ids, x.table, routing=x.routing, beta=1.0, backend="triton"
    )


def operators(function, seed):
    """Those of the forward and the backward pass."""
    inputs, weights = make(seed), torch.ones(B, device=DEVICE)
    with OnlyAllowed() as mode:
        leaves, (loss, _, rr) = function(inputs)
        torch.autograd.grad([loss, rr], leaves, [weights, weights])
    return mode.seen


@pytest.mark.parametrize("function", [rows, given, sparse, drawn, catalogue])
def test_only_operators_that_do_not_wait(function):
    """The same operators with the same sizes, whatever the values: a CUDA graph replays them."""
    operators(function, 0)  # warm up
    first = operators(function, 1)
    names = [name for name, *_ in first]
    assert "remi_fast.ihn_loss.default" in names and "remi_fast.ihn_loss_backward.default" in names
    assert first == operators(function, 2)


@pytest.mark.parametrize(
    "where, wait",
    [
        ("forward", lambda x: x.max().item()),
        ("backward_rows", lambda x: x[0, 0, 0].item()),
        ("backward_negatives", torch.Tensor.nonzero),
        ("forward", torch.Tensor.clone),  # waits for nothing, but is not listed
    ],
)
def test_an_operator_that_waits_is_seen(monkeypatch, where, wait):
    """The test of the test."""
    original = getattr(ihn_loss_launch, where)

    def waiting(interests, *args, **kwargs):
        wait(interests)
        return original(interests, *args, **kwargs)

    monkeypatch.setattr(ihn_loss_launch, where, waiting)
    with pytest.raises(AssertionError, match="is not known to run without waiting"):
        operators(drawn, 0)
