"""IHN loss, forward and backward: native, the autograd formula, and that under torch.compile."""

import pytest
import torch

from remi_fast.kernels import reference
from remi_fast.kernels.ihn_loss import ihn_loss
from remi_fast.training.trainer import set_threads

SIZES = [(128, 1280), (1024, 10_240)]
DIM = 64


def inputs(batch, negatives):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, DIM), (batch, DIM), (negatives, DIM))
    return [torch.randn(*s, generator=generator).mul_(0.5).requires_grad_() for s in shapes]


CONTESTANTS = {
    "native": lambda *x, beta: ihn_loss(*x, beta=beta, backend="native"),
    "autograd": reference.ihn_loss,
    "autograd-compiled": torch.compile(reference.ihn_loss),
}


@pytest.mark.parametrize("batch, negatives", SIZES)
@pytest.mark.parametrize("beta", [0.0, 1.0], ids=["plain", "ihn"])
@pytest.mark.parametrize("name", CONTESTANTS)
def test_ihn_loss(benchmark, name, beta, batch, negatives):
    benchmark.group = f"ihn-loss-{'ihn' if beta else 'plain'}-{batch}x{negatives}"
    set_threads(0)
    loss, given = CONTESTANTS[name], inputs(batch, negatives)

    def step():
        value = loss(*given, beta=beta)
        return torch.autograd.grad(value.mean(), given)

    truth = reference.ihn_loss(*(x.double() for x in given), beta=beta).mean()
    expected = torch.autograd.grad(truth, given)
    for mine, true in zip(step(), expected, strict=True):
        torch.testing.assert_close(mine, true.to(mine), rtol=1e-3, atol=1e-6)
    benchmark.pedantic(step, rounds=20, iterations=3, warmup_rounds=2)
