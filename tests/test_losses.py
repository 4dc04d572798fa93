"""The library calls on somebody else's item table, against formulas written out here."""

import math

import pytest
import torch

import remi_fast.functional as F
from remi_fast import REMILoss
from remi_fast.losses import gbce_loss
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
        (lambda: drawn(step=2**32), "step: got .*, expected a number in"),
        (lambda: drawn(step=torch.zeros(2, dtype=torch.long)), r"step: got \(2,\) torch.int64"),
        (lambda: drawn(step=torch.tensor(1.0)), "step: got .* torch.float32"),
        (lambda: drawn(seed=-1), "seed: got .*, expected a number in"),
        (lambda: drawn(num_negatives=-1), "num: got .*, expected a number in"),
        (lambda: F.routing_regularizer(torch.zeros(2, 3), 4), r"shape \(2, 3\)"),
        (lambda: F.ihn_loss(*[torch.zeros(2, 3)] * 3, beta=1, backend="cuda"), "cuda"),
        (
            lambda: F.sample_negatives(3, 1, seed=0, step=0),
            "num_items: got .*, expected a number",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def gbce_inputs(scale=1.0):
    generator = torch.Generator().manual_seed(3)
    vectors = [torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (B, B, N)]
    ids = [torch.randint(1, 9, (n,), generator=generator) for n in (B, N)]
    return [(scale * x).requires_grad_() for x in vectors], ids


def published_gbce(query, target, negatives, t, masked=None):
    """Written term by term from the paper's equations, for a catalogue of 40 items and padding."""
    alpha = N / 39
    losses = []
    for b, (user, own) in enumerate(zip(query, target, strict=True)):
        probabilities = [
            1 / (1 + torch.exp(-(user @ row)))
            for j, row in enumerate(negatives)
            if masked is None or masked[0][b] != masked[1][j]
        ]
        positive = (1 / (1 + torch.exp(-(user @ own)))) ** (
            alpha * (t * (1 - 1 / alpha) + 1 / alpha)
        )
        terms = [positive.log(), *((1 - p).log() for p in probabilities)]
        losses.append(-sum(terms) / len(terms))
    return torch.stack(losses)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce_is_the_published_formula(t, masked):
    vectors, ids = gbce_inputs()
    masks = dict(zip(("target_ids", "negative_ids"), ids, strict=True)) if masked else {}
    found = gbce_loss(*vectors, num_items=41, t=t, **masks)
    expected = published_gbce(*vectors, t, ids if masked else None)
    torch.testing.assert_close(found, expected)
    mine, true = (torch.autograd.grad(x.sum(), vectors) for x in (found, expected))
    torch.testing.assert_close(mine, true)
    assert torch.autograd.gradcheck(
        lambda *x: gbce_loss(*x, num_items=41, t=t, **masks), vectors, fast_mode=True
    )


def test_gbce_with_t_0_is_binary_cross_entropy():
    vectors, _ = gbce_inputs()
    query, target, negatives = vectors
    scores = torch.cat([(query * target).sum(1, keepdim=True), query @ negatives.T], dim=1)
    labels = torch.zeros_like(scores)
    labels[:, 0] = 1
    plain = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    torch.testing.assert_close(gbce_loss(*vectors, num_items=99, t=0.0), plain.mean(dim=1))


def test_gbce_of_extreme_scores_is_finite_and_has_gradients():
    vectors, _ = gbce_inputs(scale=1e3)
    vectors = [x.detach().float().requires_grad_() for x in vectors]
    loss = gbce_loss(*vectors, num_items=99)
    gradients = torch.autograd.grad(loss.sum(), vectors)
    assert loss.isfinite().all() and loss.max() > 1e5
    assert all(g.isfinite().all() and g.abs().max() > 1 for g in gradients)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_items": 41, "t": 1.5}, "t: got 1.5, expected a number from 0 to 1"),
        ({"num_items": 41, "t": math.nan}, "t: got nan"),
        ({"num_items": N + 1}, f"negatives: got {N}, expected 1 to num_items - 2 = {N - 1}"),
    ],
)
def test_gbce_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        gbce_loss(*gbce_inputs()[0], **options)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("query", lambda x: x[0], r"query: got \(5,\) torch.float64, expected \(B, d\)"),
        ("target", lambda x: x[:1], r"target: got shape \(1, 5\), expected \(6, 5\)"),
        ("target", lambda x: x.float(), "target: got dtype torch.float32, expected torch.float64"),
        ("negatives", lambda x: x[:, 1:], r"negatives: got shape \(17, 4\), expected \(17, 5\)"),
        ("negatives", lambda x: x[0, 0], r"negatives: got shape \(\), expected \(0, 5\)"),
        ("negative_ids", lambda x: x[1:], r"negative_ids: got shape \(16,\), expected \(17,\)"),
    ],
)
def test_gbce_inputs_that_do_not_fit(name, change, message):
    vectors, ids = gbce_inputs()
    names = ("query", "target", "negatives", "target_ids", "negative_ids")
    inputs = dict(zip(names, [*vectors, *ids], strict=True))
    with pytest.raises(ValueError, match=message):
        gbce_loss(**inputs | {name: change(inputs[name])}, num_items=41)
