"""Dynamic routing of the capsule models, forward and backward with the votes: native,
the formula, it compiled."""

import pytest
import torch

from remi_fast.kernels import reference
from remi_fast.kernels.capsule_routing import capsule_routing
from remi_fast.training.trainer import set_threads

BATCH, HISTORY, DIM, INTERESTS = 128, 20, 64, 4
CONTESTANTS = {
    "native": lambda *x, **o: capsule_routing(*x, backend="native", **o),
    "autograd": reference.capsule_routing,
    "autograd-compiled": torch.compile(reference.capsule_routing),
}


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("through_routing", [False, True])
@pytest.mark.parametrize("model", ["comirec-dr", "mind"])
def test_capsule_routing(benchmark, model, through_routing, name):
    benchmark.group = f"{model}{', routing with a gradient' if through_routing else ''}"
    set_threads(0)
    generator = torch.Generator().manual_seed(0)
    history = torch.randn(BATCH, HISTORY, DIM, generator=generator).mul_(0.3).requires_grad_()
    shape = (HISTORY, INTERESTS * DIM, DIM) if model == "comirec-dr" else (DIM, DIM)
    weight = torch.randn(shape, generator=generator).div_(DIM**0.5).requires_grad_()
    logits = torch.randn(BATCH, INTERESTS, HISTORY, generator=generator)
    length = torch.arange(BATCH) % HISTORY + 1

    def gradients(implementation, history, weight, logits):
        interests, routing = implementation(
            history, length, weight, logits, through_routing=through_routing
        )
        loss = interests.square().sum() + (routing.square().sum() if through_routing else 0)
        return torch.autograd.grad(loss, (history, weight))

    def step():
        return gradients(CONTESTANTS[name], history, weight, logits)

    true = gradients(reference.capsule_routing, history.double(), weight.double(), logits.double())
    for mine, exact in zip(step(), true, strict=True):
        torch.testing.assert_close(mine, exact.float(), rtol=1e-3, atol=1e-4)
    benchmark.pedantic(step, rounds=20, iterations=3, warmup_rounds=2)
