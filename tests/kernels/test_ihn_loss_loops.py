"""The fused loss in training loops of other people: gradient accumulation, activation
checkpointing, DDP, CUDA graphs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

import remi_fast.functional as F
from tests.device import DEVICE
from tests.kernels import data_parallel
from tests.kernels.data_parallel import Toy
from tests.kernels.test_ihn_loss import shape_triton

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    shape_triton(monkeypatch)


def gradients(model):
    return {name: x.grad for name, x in model.named_parameters()}


def expected():
    """Those of one step over the whole batch."""
    model = Toy().to(DEVICE)
    model(*data_parallel.batch(), step=3).backward()
    return gradients(model)


def assert_expected(found):
    for name, gradient in expected().items():
        torch.testing.assert_close(found[name].to(DEVICE), gradient)


def test_gradient_accumulation():
    model = Toy().to(DEVICE)
    for part in zip(*(x.chunk(2) for x in data_parallel.batch()), strict=True):
        (model(*part, step=3) / 2).backward()
    assert_expected(gradients(model))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    """The forward pass runs again in the backward pass, and draws the same negatives."""
    model = Toy().to(DEVICE)
    history, target_ids = data_parallel.batch()
    vectors = model.items(history)

    def rest(vectors):
        routing = model.routing(vectors).softmax(dim=1).transpose(1, 2)
        table = model.items.weight
        return model.loss(routing @ vectors, target_ids, table, routing=routing, step=3)

    checkpoint(rest, vectors, use_reentrant=reentrant).backward()
    assert_expected(gradients(model))


def test_distributed_data_parallel(tmp_path):
    """Two processes with half the batch each: the mean, as in one process with all of it."""
    out = tmp_path / "gradients.safetensors"
    command = [sys.executable, "-m", "tests.kernels.data_parallel"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), "2", str(tmp_path / "store"), str(out)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    assert_expected(load_file(out))


def parts(x):
    return (x._indices(), x._values()) if x.is_sparse else (x,)


@pytest.mark.skipif(DEVICE != "cuda", reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("sparse", [False, True])
def test_cuda_graph(sparse):
    """Captured once, replayed with other steps and other interests: the bits of eager calls."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((40, 3, 20), (1000, 20), (40, 3, 7))
    leaves = [torch.randn(s, generator=generator).to(DEVICE).requires_grad_() for s in shapes]
    interests, table, routing = leaves
    target_ids = torch.randint(1, 1000, (40,), generator=generator).to(DEVICE)
    step = torch.zeros((), dtype=torch.int64, device=DEVICE)

    def call():
        loss, chosen, rr = F.multi_interest_ihn_loss(
            interests, target_ids, table, routing=routing, num_negatives=300, step=step,
            beta=1.0, sparse=sparse, mask_hits=True, backend="triton",
        )  # fmt: skip
        gradients = torch.autograd.grad((loss.mean() + rr.mean()), leaves)
        return loss, chosen, rr, *gradients

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles the kernels
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    losses = []
    for number in (0, 1, 2**32 - 1):
        step.fill_(number)
        with torch.no_grad():
            interests.mul_(1.5)
        graph.replay()
        for one, other in zip(captured, call(), strict=True):
            assert all(map(torch.equal, parts(one), parts(other)))
        losses.append(captured[0].clone())
    assert not torch.equal(losses[0], losses[1])  # not what was captured


@pytest.mark.skipif(DEVICE != "cuda", reason="only a GPU can be waited for")
def test_nothing_waits_for_the_gpu():
    """As torch itself sees it; test_no_synchronisation lists the operators."""
    model = Toy().to(DEVICE)
    batch = data_parallel.batch()
    model(*batch, step=3).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(*batch, step=4).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
