"""Kernels read and write only what is their own: guard pages for the Triton kernels and the C++
extension, and of the loss uninitialised memory and offsets past 2^31 elements."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton

import remi_fast.functional as F
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from tests.device import DEVICE
from tests.kernels.test_ihn_loss import shape_triton

ROOT = Path(__file__).parents[2]
needs_interpreter = pytest.mark.skipif(
    np.lib.NumpyVersion(triton.__version__) < "3.7.0"
    and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="Triton 3.6 cannot interpret kernels with NumPy 2.4",
)
B, K, D, ITEMS, N, L = 3, 3, 5, 30, 20, 7
SOURCES = ["rows", "table", "drawn", "catalogue"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    shape_triton(monkeypatch)


def beside_guard_pages(what, module="guard_pages"):
    command = [sys.executable, "-m", f"tests.kernels.{module}", str(what)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@needs_interpreter
@pytest.mark.parametrize(
    "what", ["loss", "adam", "dense", "capsules", "batches", "attention", "query", "guard"]
)
def test_nothing_is_touched_beyond_a_tensor(what):
    done = beside_guard_pages(what)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0 and last == ["done"], f"died at {last}: {done.stderr}"


def test_nothing_is_touched_beyond_a_buffer_of_the_extension(at_scale):
    """Every entry point that takes a buffer: one that is never called there fails it, too."""
    done = beside_guard_pages(at_scale(30, 1000), "entry_points")
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0 and last == ["done"], f"died at {last}: {done.stderr}"


@pytest.mark.parametrize(
    "module", [pytest.param("guard_pages", marks=needs_interpreter), "entry_points"]
)
def test_guard_pages_kill_what_reads_too_much(module):
    done = beside_guard_pages("control", module)
    assert done.stdout == "reading too much\n" and done.returncode == -signal.SIGSEGV


def make(dtype=torch.float32, places=L):
    """interests, table and routing, and target rows and negative rows in the place of a table."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "interests": (B, K, D),
        "table": (ITEMS, D),
        "routing": (B, K, places),
        "target": (B, D),
        "negatives": (N, D),
    }
    return {
        name: torch.randn(shape, generator=generator).to(DEVICE, dtype)
        for name, shape in shapes.items()
    }


def run(source, tensors):
    """Loss, routing regularizer and all gradients."""
    tensors = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    interests, table, routing = (tensors[name] for name in ("interests", "table", "routing"))
    target_ids = torch.tensor([1, ITEMS // 2, ITEMS - 1], device=DEVICE)
    negative_ids = torch.arange(ITEMS - N, ITEMS, device=DEVICE)
    options = {"routing": routing, "beta": 1.0, "backend": "triton"}
    leaves = [interests, table, routing]
    if source == "rows":
        leaves = [interests, tensors["target"], tensors["negatives"], routing]
        ids = {"target_ids": target_ids, "negative_ids": negative_ids}
        loss, _, rr = multi_interest_ihn_loss_rows(*leaves[:3], **options, **ids)
    elif source == "table":
        loss, _, rr = F.multi_interest_ihn_loss(
            interests, target_ids, table, negative_ids, mask_hits=True, **options
        )
    elif source == "drawn":
        step = torch.tensor(3, device=DEVICE)
        loss, _, rr = F.multi_interest_ihn_loss(
            interests, target_ids, table, num_negatives=N, step=step, **options
        )
    else:
        loss, _, rr = F.full_catalogue_ihn_loss(interests, target_ids, table, **options)
    return loss, rr, *torch.autograd.grad((loss + rr).sum(), leaves)


@pytest.fixture
def poisoned():
    """Memory that nobody has written holds NaN, or the largest integer."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("source", SOURCES)
def test_uninitialised_memory_is_not_read(source, request):
    plain = run(source, make())
    request.getfixturevalue("poisoned")
    for one, other in zip(run(source, make()), plain, strict=True):
        assert one.isfinite().all() and torch.equal(one, other)


FAR = 2**31 + 8  # elements: more than an int32 can count


def far_apart(x, dimension):
    """x with its last entry of that dimension FAR from the first, in memory hardly touched."""
    strides, dense = [0] * x.ndim, 1
    for other in reversed(range(x.ndim)):
        if other != dimension:
            strides[other] = dense
            dense *= x.shape[other]
    strides[dimension] = -(-FAR // (x.shape[dimension] - 1))
    memory = torch.empty(FAR + x.shape[dimension] + dense, dtype=x.dtype, device=x.device)
    return memory.as_strided(x.shape, strides).copy_(x)


@pytest.mark.parametrize(
    "source, name, dimension",
    [
        ("rows", "target", 0),
        ("rows", "negatives", 0),
        ("rows", "interests", 0),
        ("rows", "interests", 1),
        ("table", "table", 0),
        ("drawn", "table", 0),
        ("catalogue", "table", 0),
        ("catalogue", "routing", 0),
        ("catalogue", "routing", 1),
        ("catalogue", "routing", 2),
    ],
)
def test_offsets_past_two_to_the_31(source, name, dimension):
    """Rows, interests and routing weights there give the bits of those that lie together."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensors = make(torch.float16)
    plain = run(source, tensors)
    tensors[name] = far_apart(tensors[name], dimension)
    assert max(tensors[name].stride()) < 2**31  # it is the product that has to be an int64
    for one, other in zip(run(source, tensors), plain, strict=True):
        assert torch.equal(one, other)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert DEVICE == "cuda" or grown < 2**20, "more than 1 GiB (in KiB) was touched"
