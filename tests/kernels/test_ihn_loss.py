"""The tiled IHN loss against its formula in float64."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remi_fast.kernels import ihn_loss as module
from remi_fast.kernels import reference
from remi_fast.kernels.ihn_loss import ihn_loss
from tests.kernels.errors import with_gradients, within_budget

BETAS = [0.0, 0.1, 0.5, 1.0, 10.0]


def make(batch, negatives, dim, *, scale=1.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, dim), (batch, dim), (negatives, dim))
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).mul(scale).to(dtype)
        for s in shapes
    ]


def options(batch, negatives, *, log_q=False, masked=False, detach=False, seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    chosen = {"detach_weights": detach}
    if log_q:
        chosen["log_q"] = torch.randn(negatives, generator=generator, dtype=torch.float64) * 3
        chosen["target_log_q"] = torch.randn(batch, generator=generator, dtype=torch.float64)
        chosen["log_scale"] = math.log(1000)
    if masked:
        chosen["target_ids"] = torch.randint(0, 3, (batch,), generator=generator)
        chosen["negative_ids"] = torch.randint(0, 3, (negatives,), generator=generator)
    return chosen


def run(inputs, *, backend, **kwargs):
    return with_gradients(lambda *x: (ihn_loss(*x, backend=backend, **kwargs),), inputs)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("log_q", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_matches_float64_autograd(monkeypatch, beta, log_q, masked, detach, scale):
    monkeypatch.setattr(module, "TILE_ELEMENTS", 70)  # several uneven tiles
    inputs = make(9, 37, 6, scale=math.sqrt(scale))
    kwargs = {"beta": beta} | options(9, 37, log_q=log_q, masked=masked, detach=detach)
    exact = run(inputs, backend="reference", **kwargs)
    for ours, truth in zip(run(inputs, backend="native", **kwargs), exact, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


@given(
    batch=st.integers(1, 17),
    negatives=st.integers(1, 70),
    dim=st.integers(1, 20),
    beta=st.sampled_from(BETAS),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
    tile=st.sampled_from([1, 64, 1 << 18]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_float32_error_budget(batch, negatives, dim, beta, scale, tile, seed):
    exact_inputs = make(batch, negatives, dim, scale=scale, seed=seed, dtype=torch.float32)
    before, module.TILE_ELEMENTS = module.TILE_ELEMENTS, tile
    try:
        ours = run(exact_inputs, backend="native", beta=beta)
    finally:
        module.TILE_ELEMENTS = before
    eager = run(exact_inputs, backend="reference", beta=beta)
    truth = run([x.double() for x in exact_inputs], backend="reference", beta=beta)
    # Tiny problems have eager errors of 0 by luck: a few units in the last place are granted.
    slack = [t.abs().max() * 8 * torch.finfo(torch.float32).eps for t in truth]
    for mine, theirs, exact, extra in zip(ours, eager, truth, slack, strict=True):
        budget = 2 * (theirs.double() - exact).abs().max() + extra
        assert (mine.double() - exact).abs().max() <= budget


@pytest.mark.parametrize("beta", [0.0, 1.0, 10.0])
def test_error_budget_at_training_size(beta):
    inputs = make(128, 1280, 64, scale=0.4, dtype=torch.float32)
    truth = run([x.double() for x in inputs], backend="reference", beta=beta)
    eager = run(inputs, backend="reference", beta=beta)
    within_budget(run(inputs, backend="native", beta=beta), eager, truth)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("detach", [False, True])
def test_gradcheck(beta, detach):
    inputs = [x.requires_grad_() for x in make(3, 5, 4)]
    if detach:  # finite differences see through the detaching; compare the closed forms instead
        closed = run(inputs, backend="native", beta=beta, detach_weights=True)
        formula = run(inputs, backend="reference", beta=beta, detach_weights=True)
        torch.testing.assert_close(closed, formula, rtol=1e-10, atol=1e-12)
        return
    function = partial(ihn_loss, beta=beta, backend="native")
    assert torch.autograd.gradcheck(function, inputs, atol=1e-6, rtol=1e-4, nondet_tol=0.0)


@pytest.mark.parametrize("beta", BETAS)
def test_extreme_scores_stay_finite(beta):
    query = torch.full((2, 1), 100.0)
    target = torch.tensor([[100.0], [-100.0]])
    negatives = torch.tensor([[100.0], [-100.0], [0.0], [99.0]])
    loss, *gradients = run([query, target, negatives], backend="native", beta=beta)
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(g).all() for g in gradients)
    assert loss[1] > 19_000  # target at -10^4, the hardest negative at +10^4
    assert loss[0] < 10


def test_beta_zero_is_the_sampled_softmax():
    query, target, negatives = make(6, 40, 8)
    logits = torch.cat([(query * target).sum(1, keepdim=True), query @ negatives.T], dim=1)
    plain = torch.nn.functional.cross_entropy(
        logits, torch.zeros(6, dtype=torch.long), reduction="none"
    )
    torch.testing.assert_close(ihn_loss(query, target, negatives, beta=0.0), plain)


def test_hard_negatives_raise_the_loss():
    query, target, negatives = make(6, 40, 8)
    losses = torch.stack([ihn_loss(query, target, negatives, beta=b).mean() for b in (0, 1, 10)])
    assert (losses.diff() > 0).all()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_rows_without_negatives_lose_nothing(backend, beta):
    inputs = make(3, 2, 4)
    ids = {"target_ids": torch.tensor([5, 6, 5]), "negative_ids": torch.tensor([5, 5])}
    loss, *gradients = run(inputs, backend=backend, beta=beta, **ids)
    assert loss[0] == 0 and loss[2] == 0 and loss[1] > 0
    assert gradients[0][0].abs().sum() == 0 and gradients[0][1].abs().sum() > 0


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_empty_batch_and_no_negatives(backend):
    loss, *gradients = run(make(0, 5, 4), backend=backend, beta=1.0)
    assert loss.shape == (0,) and gradients[2].abs().sum() == 0
    loss, *gradients = run(make(3, 0, 4), backend=backend, beta=1.0)
    assert loss.tolist() == [0, 0, 0] and gradients[0].abs().sum() == 0


def test_non_contiguous_inputs_and_same_bits_twice():
    query, target, negatives = make(8, 30, 6, dtype=torch.float32)
    strided = [x.T.contiguous().T for x in (query, target, negatives)]
    first = run(strided, backend="native", beta=1.0)
    again = run(strided, backend="native", beta=1.0)
    plain = run([query, target, negatives], backend="native", beta=1.0)
    for a, b, c in zip(first, again, plain, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("subset", [(0,), (1,), (2,), (0, 2)])
def test_gradient_of_a_subset_of_inputs(subset):
    inputs = make(4, 9, 5)
    full = run(inputs, backend="native", beta=1.0)[1:]
    leaves = [x.requires_grad_(i in subset) for i, x in enumerate(inputs)]
    loss = ihn_loss(*leaves, beta=1.0)
    weights = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (loss * weights).sum().backward()
    for i in range(3):
        if i in subset:
            torch.testing.assert_close(leaves[i].grad, full[i])
        else:
            assert leaves[i].grad is None


def test_nothing_of_batch_times_negatives_is_stored():
    query, target, negatives = make(64, 20_000, 4, dtype=torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        ihn_loss(query.requires_grad_(), target, negatives, beta=1.0)
    assert sum(saved) < 64 * 20_000 / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(3)}, r"query: got \(3,\)"),
        ({"target": torch.zeros(2, 4)}, r"target: got shape \(2, 4\), expected \(3, 4\)"),
        ({"negatives": torch.zeros(5, 3)}, r"negatives: got shape \(5, 3\), expected \(5, 4\)"),
        ({"negatives": torch.zeros(5, 4).double()}, "negatives: got dtype torch.float64"),
        ({"beta": -1.0}, "beta: got -1.0"),
        ({"beta": math.nan}, "beta: got nan"),
        ({"log_q": torch.zeros(4)}, r"log_q: got shape \(4,\), expected \(5,\)"),
        ({"target_ids": torch.zeros(3)}, "give both"),
        ({"backend": "cuda"}, "got backend 'cuda', expected one of: auto, native, reference"),
    ],
)
def test_bad_arguments(change, message):
    good = {
        "query": torch.zeros(3, 4),
        "target": torch.zeros(3, 4),
        "negatives": torch.zeros(5, 4),
        "beta": 1.0,
    }
    arguments = good | change
    with pytest.raises(ValueError, match=message):
        ihn_loss(
            arguments.pop("query"), arguments.pop("target"), arguments.pop("negatives"), **arguments
        )


def test_reference_is_the_published_formula():
    """Written out with plain exponentials, as in the paper: weights, reweighted sum, softmax."""
    query, target, negatives = make(5, 12, 3)
    for beta in BETAS:
        scores = query @ negatives.T
        weights = torch.exp(beta * scores)
        reweighted = (weights / weights.mean(dim=1, keepdim=True) * torch.exp(scores)).sum(dim=1)
        positive = torch.exp((query * target).sum(dim=1))
        expected = -torch.log(positive / (positive + reweighted))
        torch.testing.assert_close(
            reference.ihn_loss(query, target, negatives, beta=beta), expected
        )
