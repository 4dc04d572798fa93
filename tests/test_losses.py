"""The library calls on somebody else's item table, against formulas written out here."""

import math

import pytest
import torch

import remi_fast.functional as F
from remi_fast import REMILoss
from tests.device import DEVICE

B, K, D, ITEMS, N, L = 6, 3, 5, 40, 17, 8


def make():
    generator = torch.Generator().manual_seed(2)
    interests = torch.randn(B, K, D, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(ITEMS, D, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, ITEMS, (B,), generator=generator)
    negatives = torch.randint(1, ITEMS, (N,), generator=generator)
    routing = torch.randn(B, K, L, generator=generator, dtype=torch.float64).softmax(2)
    inputs = (interests, targets, table, negatives, routing)
    return tuple(x.detach().to(DEVICE).requires_grad_(x.is_floating_point()) for x in inputs)


def published_total(interests, targets, table, negatives, routing, beta, rr_lambda):
    """Written row by row from the paper's formulas."""
    losses = []
    for user, target in zip(interests, targets, strict=True):
        query = user[(user @ table[target]).argmax()]
        scores = table[negatives] @ query
        weights = (beta * scores).exp()
        total = N * (weights * scores.exp()).sum() / weights.sum()
        losses.append(
            -(torch.exp(query @ table[target]) / (torch.exp(query @ table[target]) + total)).log()
        )
    centred = routing - routing.sum(2, keepdim=True) / L
    rr = ((centred**2).sum(2) / D) ** 2
    return torch.stack(losses).mean() + rr_lambda * rr.sum() * 128 / B


@pytest.mark.parametrize("backend", ["native", "reference", "triton"])
@pytest.mark.parametrize("beta, rr_lambda", [(0.0, 0.0), (1.0, 100.0), (0.3, 2.0)])
@pytest.mark.parametrize("sparse", [False, True])
def test_remi_loss(backend, beta, rr_lambda, sparse):
    inputs = make()
    leaves = [inputs[0], inputs[2], inputs[4]]
    loss = REMILoss(beta, rr_lambda, sparse=sparse, backend=backend)(*inputs)
    expected = published_total(*inputs, beta, rr_lambda)
    torch.testing.assert_close(loss, expected)
    mine = torch.autograd.grad(loss, leaves, allow_unused=True)
    true = torch.autograd.grad(expected, leaves)
    assert (mine[1].layout == torch.sparse_coo) == sparse
    for got, wanted in zip(mine, true, strict=True):
        got = torch.zeros_like(wanted) if got is None else got.to_dense()
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["native", "reference", "triton"])
def test_the_module_draws_the_negatives_of_the_step(backend):
    interests, targets, table, _, routing = make()
    loss = REMILoss(num_negatives=N, seed=3, backend=backend)
    negatives = F.sample_negatives(N, ITEMS, seed=3, step=7).to(DEVICE)
    given = REMILoss(backend=backend)(interests, targets, table, negatives, routing)
    for step in (7, torch.tensor(7, device=DEVICE)):
        drawn = loss(interests, targets, table, routing=routing, step=step)
        assert torch.equal(drawn, given)
        gradients = (torch.autograd.grad(x, table, retain_graph=True) for x in (drawn, given))
        assert torch.equal(*(gradient for (gradient,) in gradients))
    assert not torch.equal(loss(interests, targets, table, routing=routing, step=8), given)


def test_the_module_shows_what_it_does():
    assert repr(REMILoss(0.5, 0.0)) == "REMILoss(beta=0.5, rr_lambda=0.0, backend='auto')"
    assert "num_negatives=9, seed=3" in repr(REMILoss(num_negatives=9, seed=3))


def test_parts():
    interests, targets, table, negatives, routing = make()
    loss, chosen = F.multi_interest_ihn_loss(interests, targets, table, negatives, beta=1.0)
    assert loss.shape == (B,)
    assert torch.equal(chosen, torch.einsum("bkd,bd->bk", interests, table[targets]).argmax(1))
    again, _, rr = F.multi_interest_ihn_loss(
        interests, targets, table, negatives, beta=1.0, routing=routing
    )
    assert torch.equal(loss, again)
    torch.testing.assert_close(rr, F.routing_regularizer(routing, D))


def test_routing_regularizer_gradcheck_and_collapse():
    *_, routing = make()
    assert torch.autograd.gradcheck(lambda r: F.routing_regularizer(r, D), routing)
    even = torch.full((1, K, L), 1 / L)
    collapsed = torch.eye(L)[None, :K]
    assert F.routing_regularizer(even, D).item() == pytest.approx(0, abs=1e-12)
    assert F.routing_regularizer(collapsed, D).item() == pytest.approx(K * ((1 - 1 / L) / D) ** 2)


def test_masked_hits_have_no_part():
    interests, targets, table, _, _ = make()
    hits = targets[:1].repeat(4)
    loss, _ = F.multi_interest_ihn_loss(interests, targets, table, hits, beta=1.0, mask_hits=True)
    same = targets == targets[0]
    assert (loss[same] == 0).all() and (loss[~same] > 0).all()
    module = REMILoss(1.0, 0.0, mask_hits=True)
    torch.testing.assert_close(module(interests, targets, table, hits), loss.mean())


def drawn(num_negatives=3, **draw):
    interests, targets, table, *_ = make()
    return F.multi_interest_ihn_loss(
        interests, targets, table, num_negatives=num_negatives, beta=1.0, backend="triton", **draw
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: REMILoss(beta=-1), "beta: got -1"),
        (lambda: REMILoss(beta=math.nan), "beta: got nan"),
        (lambda: REMILoss(rr_lambda=math.inf), "rr_lambda: got inf"),
        (lambda: REMILoss(num_negatives=0), "num_negatives: got 0"),
        (lambda: REMILoss(num_negatives=3, seed=-1), "seed: got -1"),
        (lambda: REMILoss()(*make()[:4]), "routing: got None"),
        (lambda: REMILoss()(*make()[:3]), "negative_ids: got None"),
        (lambda: REMILoss()(*make(), step=1), "step: got one"),
        (lambda: REMILoss(num_negatives=3)(*make(), step=1), "negative_ids: got ids"),
        (lambda: REMILoss(num_negatives=3)(*make()[:3]), "step: got None"),
        (lambda: drawn(step=2**32), "step must be in"),
        (lambda: drawn(step=torch.zeros(2, dtype=torch.long)), r"step: got \(2,\) torch.int64"),
        (lambda: drawn(step=torch.tensor(1.0)), "step: got .* torch.float32"),
        (lambda: drawn(seed=-1), "seed must be in"),
        (lambda: drawn(num_negatives=-1), "num must be in"),
        (lambda: F.routing_regularizer(torch.zeros(2, 3), 4), r"shape \(2, 3\)"),
        (lambda: F.ihn_loss(*[torch.zeros(2, 3)] * 3, beta=1, backend="cuda"), "cuda"),
        (lambda: F.sample_negatives(3, 1, seed=0, step=0), "num_items must be"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
