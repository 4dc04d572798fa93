"""ComiRec-SA's extractor, forward and backward: native, the autograd formula, and that compiled.

And what training needs of it, the chosen interest and RR: on a GPU in one operation by Triton.
"""

import pytest
import torch

from remi_fast.kernels import reference
from remi_fast.kernels.self_attentive import self_attentive_extractor
from remi_fast.kernels.self_attentive_query import self_attentive_query
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


def in_parts(*x):
    """The extractor by Triton, then the choice and RR by torch."""
    interests, routing = self_attentive_extractor(*x[:-1], backend="triton")
    query, chosen = reference.select_interest(interests, x[-1])
    return query, chosen, reference.routing_regularizer(routing, DIM)


ON_CPU = {
    "native": lambda *x: self_attentive_query(*x, backend="native"),
    "autograd": reference.self_attentive_query,
}
ON_GPU = {
    "triton": lambda *x: self_attentive_query(*x, backend="triton"),
    "triton-in-parts": in_parts,
    "autograd": reference.self_attentive_query,
    "autograd-compiled": torch.compile(reference.self_attentive_query),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("name", ON_GPU if DEVICE == "cuda" else ON_CPU)
def test_self_attentive_query(benchmark, name):
    benchmark.group = "self-attentive-query"
    set_threads(0)
    operation = (ON_GPU if DEVICE == "cuda" else ON_CPU)[name]
    given = [x.detach().to(DEVICE).requires_grad_() for x in inputs()]
    length = (torch.arange(BATCH) % HISTORY + 1).to(DEVICE)
    target = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def gradients(operation, history, *layers, target):
        query, _, rr = operation(history, length, *layers, target)
        return torch.autograd.grad(query.square().sum() + rr.sum(), (history, *layers))

    def step():
        found = gradients(operation, *given, target=target)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return found

    true = gradients(
        reference.self_attentive_query, *(x.double() for x in given), target=target.double()
    )
    for mine, exact in zip(step(), true, strict=True):
        torch.testing.assert_close(mine, exact.to(mine), rtol=1e-3, atol=1e-4)
    benchmark.pedantic(step, rounds=20, iterations=3, warmup_rounds=2)
