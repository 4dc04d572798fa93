"""Dynamic routing of the capsule models, forward and backward: native, the formula, it compiled."""

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
    shape = (BATCH, INTERESTS if model == "comirec-dr" else 1, HISTORY, DIM)
    votes = torch.randn(shape, generator=generator).mul_(0.3).requires_grad_()
    logits = torch.randn(BATCH, INTERESTS, HISTORY, generator=generator)
    length = torch.arange(BATCH) % HISTORY + 1

    def gradient(implementation, votes, logits):
        interests, routing = implementation(votes, length, logits, through_routing=through_routing)
        loss = interests.square().sum() + (routing.square().sum() if through_routing else 0)
        return torch.autograd.grad(loss, votes)[0]

    def step():
        return gradient(CONTESTANTS[name], votes, logits)

    true = gradient(reference.capsule_routing, votes.double(), logits.double())
    torch.testing.assert_close(step(), true.float(), rtol=1e-3, atol=1e-4)
    benchmark.pedantic(step, rounds=20, iterations=3, warmup_rounds=2)
