"""ComiRec-SA's extractor, forward and backward: native, the autograd formula, and that compiled."""

import pytest
import torch

from remi_fast.kernels import reference
from remi_fast.kernels.self_attentive import self_attentive_extractor
from remi_fast.training.trainer import set_threads

BATCH, HISTORY, DIM, INTERESTS = 128, 20, 64, 4


def inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH, HISTORY, DIM), (HISTORY, DIM), (DIM, 4 * DIM), (4 * DIM, INTERESTS))
    return [torch.randn(*s, generator=generator).mul_(0.2).requires_grad_() for s in shapes]


CONTESTANTS = {
    "native": lambda *x: self_attentive_extractor(*x, backend="native"),
    "autograd": reference.self_attentive_extractor,
    "autograd-compiled": torch.compile(reference.self_attentive_extractor),
}


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("filled", ["full", "half"])
def test_self_attentive_extractor(benchmark, name, filled):
    benchmark.group = f"self-attentive-{filled}"
    set_threads(0)
    extractor, given = CONTESTANTS[name], inputs()
    length = (
        torch.full((BATCH,), HISTORY) if filled == "full" else torch.arange(BATCH) % HISTORY + 1
    )

    def step():
        interests, routing = extractor(given[0], length, *given[1:])
        return torch.autograd.grad(interests.square().sum() + routing.square().sum(), given)

    def truth():
        wide = [x.double() for x in given]
        interests, routing = reference.self_attentive_extractor(wide[0], length, *wide[1:])
        return torch.autograd.grad(interests.square().sum() + routing.square().sum(), given)

    for mine, true in zip(step(), truth(), strict=True):
        torch.testing.assert_close(mine, true.to(mine), rtol=1e-3, atol=1e-4)
    benchmark.pedantic(step, rounds=20, iterations=3, warmup_rounds=2)
