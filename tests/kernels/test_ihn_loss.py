"""The IHN loss, tiled in PyTorch and in Triton, against its formula in float64.

Triton runs on the GPU if there is one, else in its interpreter.
"""

import math
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import triton
import triton.language as tl

from remi_fast.kernels import ihn_loss_launch, ihn_loss_tiled, reference
from remi_fast.kernels.ihn_loss import ihn_loss
from remi_fast.kernels.runtime import rounded
from tests.device import DEVICE
from tests.kernels.errors import with_gradients, within_budget
from tests.properties import given, settings, st

BETAS = [0.0, 0.1, 0.37, 0.5, 1.0, 10.0]  # 0.37 needs two exponentials
BACKENDS = ["native", "triton"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, uneven at the end, and with Triton several tiles in each of several parts."""
    monkeypatch.setattr(ihn_loss_tiled, "TILE_ELEMENTS", 70)
    shape_triton(monkeypatch)
    with poisoned_memory():
        yield


@contextmanager
def poisoned_memory():
    """torch.empty holds NaN and the largest integers: what is not written is found."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def shape_triton(monkeypatch, users=16, negatives=16, programs=2):
    tiles = ihn_loss_launch.Tiles(users, negatives, warps=4, chunk=16)
    monkeypatch.setattr(ihn_loss_launch, "forward_tiles", lambda *_: tiles)
    monkeypatch.setattr(ihn_loss_launch, "backward_tiles", lambda *_: tiles)
    monkeypatch.setattr(ihn_loss_launch, "_PROGRAMS", programs)


def make(batch, negatives, dim, *, scale=1.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, dim), (batch, dim), (negatives, dim))
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).mul(scale).to(DEVICE, dtype)
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
    return {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in chosen.items()}


def run(inputs, *, backend, **kwargs):
    return with_gradients(lambda *x: (ihn_loss(*x, backend=backend, **kwargs),), inputs)


def near_float64(backend, inputs, *, rtol=1e-10, atol=1e-10, **kwargs):
    exact = run(inputs, backend="reference", **kwargs)
    for ours, truth in zip(run(inputs, backend=backend, **kwargs), exact, strict=True):
        torch.testing.assert_close(ours, truth, rtol=rtol, atol=atol)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize(
    "features",
    [(), ("log_q",), ("masked",), ("detach",), ("log_q", "masked", "detach")],
    ids="-".join,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_float64_autograd(backend, features, scale, beta):
    inputs = make(5, 70, 6, scale=math.sqrt(scale))
    near_float64(backend, inputs, beta=beta, **options(5, 70, **dict.fromkeys(features, True)))


@pytest.mark.parametrize(
    "batch, negatives, dim", [(1, 1, 1), (17, 33, 16), (33, 5, 70), (2, 3, 256)]
)
def test_odd_shapes(batch, negatives, dim):
    near_float64("triton", make(batch, negatives, dim, scale=0.5), beta=1.0)


def test_more_parts_than_are_added_at_a_time(monkeypatch):
    shape_triton(monkeypatch, programs=1000)  # a part for each tile of 16
    settings = options(3, 300, log_q=True, masked=True)
    for inputs in (make(3, 300, 4, scale=2), ramp(3, 300, -1), ramp(3, 300, 1)):
        near_float64("triton", inputs, beta=1.0, **settings)


def ramp(batch, negatives, direction):
    """Scores that rise or fall over the tiles, from 10^4 to -10^4 or the other way."""
    query = torch.full((batch, 1), 100.0, dtype=torch.float64, device=DEVICE)
    target = torch.linspace(-90, 90, batch, dtype=torch.float64, device=DEVICE)[:, None]
    line = torch.linspace(-100, 100, negatives, dtype=torch.float64, device=DEVICE)
    return [query, target, line[:, None] * direction]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("direction", [-1, 1])
def test_the_largest_score_comes_first_or_last(beta, direction):
    near_float64("triton", ramp(3, 70, direction), beta=beta)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_equal_scores(beta, score):
    query = torch.full((3, 2), 100.0, dtype=torch.float64, device=DEVICE)
    target = torch.tensor([[50, 50], [-50, -50], [0, 0]]).to(query)
    negatives = torch.full((70, 2), score / 200).to(query)
    near_float64("triton", [query, target, negatives], beta=beta)


def test_small_losses_keep_their_digits():
    """Far below the last digit of 1 + exp(margin)."""
    query = torch.ones(4, 1, dtype=torch.float64, device=DEVICE)
    target = torch.tensor([[5], [20], [40], [100]]).to(query)
    negatives = torch.tensor([[0.0], [0.3], [-0.2]]).to(query)
    near_float64("triton", [query, target, negatives], beta=1.0, rtol=1e-12, atol=0)


def test_improbable_negatives_count_as_their_proposal_says():
    """log q is used up to a constant, however large."""
    settings = options(5, 70, log_q=True)
    for shift in (-2000, 0, 2000):
        shifted = settings | {"log_q": settings["log_q"] + shift}
        near_float64("triton", make(5, 70, 6), beta=1.0, **shifted)


def budget_factor(beta):
    """2 x eager's own error; 4 x where powers of one exponential stand for two."""
    return 2 if beta in (0.0, 0.37) else 4


def float32_within_budget(backend, inputs, beta):
    ours = run(inputs, backend=backend, beta=beta)
    eager = run(inputs, backend="reference", beta=beta)
    truth = run([x.double() for x in inputs], backend="reference", beta=beta)
    # Tiny problems have eager errors of 0 by luck: a few units in the last place are granted, and
    # those of the largest score, which a loss or gradient feels as a relative error.
    largest = max((inputs[0].abs() @ x.abs().T).max() for x in inputs[1:])
    slack = [t.abs().max() * (8 + largest) * torch.finfo(torch.float32).eps for t in truth]
    factor = budget_factor(beta)
    for mine, theirs, exact, extra in zip(ours, eager, truth, slack, strict=True):
        budget = factor * (theirs.double() - exact).abs().max() + extra
        assert (mine.double() - exact).abs().max() <= budget


SHAPES = {
    "batch": st.integers(1, 17),
    "negatives": st.integers(1, 70),
    # On a GPU every other dimension is compiled anew.
    "dim": st.integers(1, 20) if DEVICE == "cpu" else st.sampled_from([1, 5, 20]),
    "beta": st.sampled_from(BETAS),
    "scale": st.sampled_from([0.1, 1.0, 3.0]),
    "seed": st.integers(0, 2**20),
}


@given(tile=st.sampled_from([1, 64, 1 << 18]), **SHAPES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_float32_error_budget_of_native(batch, negatives, dim, beta, scale, seed, tile):
    inputs = make(batch, negatives, dim, scale=scale, seed=seed, dtype=torch.float32)
    before, ihn_loss_tiled.TILE_ELEMENTS = ihn_loss_tiled.TILE_ELEMENTS, tile
    try:
        float32_within_budget("native", inputs, beta)
    finally:
        ihn_loss_tiled.TILE_ELEMENTS = before


@given(**SHAPES)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_float32_error_budget_of_triton(batch, negatives, dim, beta, scale, seed):
    inputs = make(batch, negatives, dim, scale=scale, seed=seed, dtype=torch.float32)
    float32_within_budget("triton", inputs, beta)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("place", [0, 20, 69])
def test_float32_error_budget_of_peaked_scores(beta, place):
    """One negative looks like the first query, one like its target."""
    inputs = make(3, 70, 16, dtype=torch.float32)
    inputs[2][place] = 2 * inputs[0][0]
    inputs[2][place - 1] = 2 * inputs[1][0]
    float32_within_budget("triton", inputs, beta)


@pytest.mark.parametrize("dim", [16, 48, 130, 200, 256])
def test_float32_error_budget_of_many_dimensions(dim):
    """A score is summed in chunks of 16 dimensions."""
    inputs = make(17, 33, dim, scale=dim**-0.25, dtype=torch.float32)
    float32_within_budget("triton", inputs, 1.0)


@pytest.mark.parametrize("beta", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_error_budget_at_training_size(monkeypatch, backend, beta):
    monkeypatch.undo()  # the tiles that training uses
    inputs = make(128, 1280, 64, scale=0.4, dtype=torch.float32)
    truth = run([x.double() for x in inputs], backend="reference", beta=beta)
    eager = run(inputs, backend="reference", beta=beta)
    within_budget(run(inputs, backend=backend, beta=beta), eager, truth, budget_factor(beta))


@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(beta):
    """Triton: test_multi_interest_ihn_loss.py."""
    inputs = [x.requires_grad_() for x in make(3, 5, 4)]
    function = partial(ihn_loss, beta=beta, backend="native")
    assert torch.autograd.gradcheck(function, inputs, atol=1e-6, rtol=1e-4, nondet_tol=0.0)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_scores_stay_finite(backend, beta):
    query = torch.full((2, 1), 100.0, device=DEVICE)
    target = torch.tensor([[100.0], [-100.0]], device=DEVICE)
    negatives = torch.tensor([[100.0], [-100.0], [0.0], [99.0]], device=DEVICE)
    loss, *gradients = run([query, target, negatives], backend=backend, beta=beta)
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(g).all() for g in gradients)
    assert loss[1] > 19_000  # target at -10^4, the hardest negative at +10^4
    assert loss[0] < 10


def test_beta_zero_is_the_sampled_softmax():
    query, target, negatives = make(6, 40, 8)
    logits = torch.cat([(query * target).sum(1, keepdim=True), query @ negatives.T], dim=1)
    plain = torch.nn.functional.cross_entropy(
        logits, torch.zeros(6, dtype=torch.long, device=DEVICE), reduction="none"
    )
    torch.testing.assert_close(ihn_loss(query, target, negatives, beta=0.0), plain)


def test_hard_negatives_raise_the_loss():
    query, target, negatives = make(6, 40, 8)
    losses = torch.stack([ihn_loss(query, target, negatives, beta=b).mean() for b in (0, 1, 10)])
    assert (losses.diff() > 0).all()


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_rows_without_negatives_lose_nothing(backend, beta):
    inputs = make(3, 2, 4)
    ids = {"target_ids": torch.tensor([5, 6, 5]), "negative_ids": torch.tensor([5, 5])}
    ids = {name: x.to(DEVICE) for name, x in ids.items()}
    loss, *gradients = run(inputs, backend=backend, beta=beta, **ids)
    assert loss[0] == 0 and loss[2] == 0 and loss[1] > 0
    assert gradients[0][0].abs().sum() == 0 and gradients[0][1].abs().sum() > 0


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_empty_batch_and_no_negatives(backend):
    loss, *gradients = run(make(0, 5, 4), backend=backend, beta=1.0)
    assert loss.shape == (0,) and gradients[2].abs().sum() == 0
    loss, *gradients = run(make(3, 0, 4), backend=backend, beta=1.0)
    assert loss.tolist() == [0, 0, 0] and gradients[0].abs().sum() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs(backend):
    inputs = make(8, 30, 6, dtype=torch.float32)
    plain = run(inputs, backend=backend, beta=1.0)
    layouts = [
        [x.T.contiguous().T for x in inputs],  # columns far apart
        [torch.stack([x, x], dim=1)[:, 0] for x in inputs],  # rows far apart
    ]
    for strided in layouts:
        leaves = [x.requires_grad_() for x in strided]
        loss = ihn_loss(*leaves, beta=1.0, backend=backend)
        weights = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        gradients = torch.autograd.grad((loss * weights.to(loss)).sum(), leaves)
        for ours, truth in zip((loss, *gradients), plain, strict=True):
            torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_every_time(backend):
    inputs = make(5, 40, 6, dtype=torch.float32)
    first = run(inputs, backend=backend, beta=1.0)
    for _ in range(50):
        for one, other in zip(first, run(inputs, backend=backend, beta=1.0), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("subset", [(0,), (1,), (2,), (0, 2)])
def test_gradient_of_a_subset_of_inputs(backend, subset):
    inputs = make(4, 9, 5)
    full = run(inputs, backend=backend, beta=1.0)[1:]
    leaves = [x.requires_grad_(i in subset) for i, x in enumerate(inputs)]
    loss = ihn_loss(*leaves, beta=1.0, backend=backend)
    weights = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (loss * weights.to(DEVICE)).sum().backward()
    for i in range(3):
        if i in subset:
            torch.testing.assert_close(leaves[i].grad, full[i])
        else:
            assert leaves[i].grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [16, 100, 256])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision(backend, dim, dtype):
    """Sums in float32, gradients in the inputs' dtype, no worse than twice eager's error."""
    inputs = make(9, 40, dim, scale=dim**-0.25, dtype=dtype)
    ours = run(inputs, backend=backend, beta=1.0)
    assert ours[0].dtype == torch.float32 and {x.dtype for x in ours[1:]} == {dtype}
    eager = with_gradients(lambda *x: (reference.ihn_loss(*x, beta=1.0),), inputs)
    truth = run([x.double() for x in inputs], backend="reference", beta=1.0)
    within_budget(ours, eager, truth)
    torch.testing.assert_close(ours[0].double(), truth[0], rtol=1e-5, atol=1e-5)


def test_half_precision_gradients_are_rounded_to_nearest():
    """Triton's interpreter alone would cut bfloat16 off."""
    inputs = make(9, 40, 16, scale=0.5, dtype=torch.bfloat16)
    exact = run([x.float() for x in inputs], backend="reference", beta=1.0)
    for ours, truth in zip(run(inputs, backend="triton", beta=1.0), exact, strict=True):
        error = (ours.float() - truth).abs()
        half_a_unit = truth.abs() * 2**-8 if DEVICE == "cpu" else truth.abs().max() * 2**-7
        assert (error <= half_a_unit * 1.01 + 1e-6).all()


@triton.jit
def _round_kernel(x_ptr, out_ptr, SIZE: tl.constexpr):
    places = tl.arange(0, SIZE)
    values = rounded(tl.load(x_ptr + places), out_ptr.dtype.element_ty)
    tl.store(out_ptr + places, values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_is_to_nearest_and_ties_go_to_even(dtype):
    near_one = 1 + torch.arange(-512, 512, device=DEVICE) * 2.0**-12
    x = torch.cat([near_one, -1e3 * near_one]).float()
    out = torch.empty_like(x, dtype=dtype)
    _round_kernel[(1,)](x, out, SIZE=len(x))
    assert torch.equal(out, x.to(dtype))


@pytest.mark.parametrize(
    "dtype, asked, precision, sums",
    [
        (torch.float32, "highest", "tf32x3", tl.float32),
        (torch.float32, "high", "tf32", tl.float32),
        (torch.float32, "medium", "tf32", tl.float32),
        (torch.bfloat16, "high", "ieee", tl.float32),
        (torch.float16, "high", "ieee", tl.float32),
        (torch.float64, "high", "ieee", tl.float64),
    ],
)
def test_products_are_as_exact_as_torch_is_asked_for(monkeypatch, dtype, asked, precision, sums):
    """The interpreter would not show it."""
    seen = []
    launch = ihn_loss_launch.launch
    monkeypatch.setattr(
        ihn_loss_launch, "launch", lambda *args, **kw: (seen.append(kw), launch(*args, **kw))
    )
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: asked)
    run(make(2, 3, 4, dtype=dtype), backend="triton", beta=1.0)
    assert {kw["PRECISION"] for kw in seen if "PRECISION" in kw} == {precision}
    assert len(seen) == 4 and {kw["SUM"] for kw in seen} == {sums}


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
        ({"target_ids": torch.zeros(3, dtype=torch.long)}, "give both"),
        ({"backend": "cuda"}, "got backend 'cuda', expected one of: auto, triton, native, ref"),
        (
            {"backend": "triton"}
            | dict.fromkeys(["query", "target", "negatives"], torch.zeros(5, 300)),
            "backend 'triton' cannot: got dimension 300, at most 256",
        ),
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
    arguments = {k: v.to(DEVICE) if hasattr(v, "to") else v for k, v in arguments.items()}
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
