"""The C++ loss against the reference in float64, beyond what every backend's tests ask."""

import math
import os
import subprocess
import sys

import pytest
import torch

import remi_fast.functional as F
from remi_fast.kernels import multi_interest_ihn_loss_native as native
from remi_fast.kernels import reference
from remi_fast.kernels.ihn_loss import check_options
from remi_fast.kernels.native import C
from tests.kernels.errors import with_gradients, within_budget
from tests.properties import given, settings, st

pytestmark = pytest.mark.skipif(
    not C.ihn_loss_available(), reason="the C++ loss needs AVX2; PyTorch tiles stand in for it"
)
BETAS = [0.0, 0.1, 0.37, 1.0, 10.0]


def make(batch, interests, dim, negatives, places, *, scale=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, interests, dim), (batch, dim), (negatives, dim), (batch, interests, places))
    inputs = [torch.randn(shape, generator=generator) * scale for shape in shapes]
    inputs[3] = inputs[3].softmax(dim=2)
    return inputs


def options(batch, negatives, names, seed=0):
    generator = torch.Generator().manual_seed(seed)
    chosen = {"detach_weights": "detach" in names}
    if "log_q" in names:
        chosen["log_q"] = torch.randn(negatives, generator=generator) * 3
        chosen["target_log_q"] = torch.randn(batch, generator=generator)
        chosen["log_scale"] = math.log(1000)
    if "masked" in names:
        chosen["target_ids"] = torch.randint(0, 3, (batch,), generator=generator)
        chosen["negative_ids"] = torch.randint(0, 3, (negatives,), generator=generator)
    return chosen


def formula(interests, target, negatives, routing, **kwargs):
    query, _ = reference.select_interest(interests, target)
    loss = reference.ihn_loss(query, target, negatives, **kwargs)
    return loss, reference.routing_regularizer(routing, interests.shape[2])


def ours(*inputs, **kwargs):
    loss, _, rr = native.multi_interest_ihn_loss_rows(*inputs, **kwargs)
    return loss, rr


def agree(inputs, **kwargs):
    """Within twice eager's own float32 error of float64; a few units for lucky small problems."""
    exact = [x.double() for x in inputs]
    as_double = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in kwargs.items()
    }
    truth = with_gradients(lambda *x: formula(*x, **as_double), exact)
    eager = with_gradients(lambda *x: formula(*x, **kwargs), inputs)
    mine = with_gradients(lambda *x: ours(*x, **kwargs), inputs)
    largest = max((inputs[0].flatten(0, 1).abs() @ x.abs().T).max() for x in inputs[1:3])
    eps = torch.finfo(torch.float32).eps
    for i, (got, theirs, true) in enumerate(zip(mine, eager, truth, strict=True)):
        budget = 2 * (theirs.double() - true).abs().max() + true.abs().max() * (8 + largest) * eps
        error = (got.double() - true).abs().max()
        assert error <= budget, f"output {i}: error {error:.3e}, budget {budget:.3e}"


@given(
    batch=st.integers(1, 70),
    interests=st.integers(1, 16),
    dim=st.integers(1, 70),
    negatives=st.integers(1, 150),
    places=st.integers(1, 30),
    beta=st.sampled_from(BETAS),
    names=st.sets(st.sampled_from(["log_q", "masked", "detach"])),
    scale=st.sampled_from([0.1, 0.5, 2.0]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_error_budget(batch, interests, dim, negatives, places, beta, names, scale, seed):
    inputs = make(batch, interests, dim, negatives, places, scale=scale, seed=seed)
    agree(inputs, beta=beta, **options(batch, negatives, names, seed))


@pytest.mark.parametrize("beta", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("names", [(), ("masked", "log_q")], ids=["plain", "masked-log_q"])
def test_more_negatives_than_a_chunk(beta, names):
    """The scores of 20,000 negatives are not kept: sums are rescaled, scores made twice."""
    inputs = make(35, 2, 16, 20_000, 5, scale=0.8)
    inputs[2][19_000] = inputs[0][3, 0] * 4  # the maximum of some users is in the second chunk
    agree(inputs, beta=beta, **options(35, 20_000, names))


def test_training_size():
    inputs = make(128, 4, 64, 1280, 20, scale=0.4)
    truth = with_gradients(lambda *x: formula(*x, beta=1.0), [x.double() for x in inputs])
    eager = with_gradients(lambda *x: formula(*x, beta=1.0), inputs)
    within_budget(with_gradients(lambda *x: ours(*x, beta=1.0), inputs), eager, truth)


@pytest.mark.parametrize("dim", [16, 200, 256, 300])
def test_dimensions(dim):
    agree(make(33, 3, dim, 70, 4, scale=0.3), beta=1.0)


@pytest.mark.parametrize("batch, negatives", [(40, 300), (33, 20_000)])
def test_same_bits_for_any_number_of_threads(batch, negatives):
    inputs = make(batch, 4, 20, negatives, 7)
    runs = []
    before = C.num_threads()
    try:
        for threads in (1, 2, 7):
            C.set_num_threads(threads)
            runs.append(with_gradients(lambda *x: ours(*x, beta=1.0), inputs))
    finally:
        C.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("beta", BETAS)
def test_kept_scores_are_those_made_again(monkeypatch, beta):
    inputs = make(40, 2, 20, 150, 3)
    kwargs = {"beta": beta, **options(40, 150, ("masked",))}
    kept = with_gradients(lambda *x: ours(*x, **kwargs), inputs)
    monkeypatch.setattr(native, "KEPT_SCORES", 0)
    again = with_gradients(lambda *x: ours(*x, **kwargs), inputs)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


@pytest.mark.parametrize("part", [0, 1])
def test_one_of_the_two_results_is_used(part):
    gradients = []
    for function in (ours, formula):
        leaves = [x.requires_grad_() for x in make(5, 3, 4, 7, 6)]
        function(*leaves, beta=1.0)[part].sum().backward()
        gradients.append([torch.zeros_like(x) if x.grad is None else x.grad for x in leaves])
    for mine, true in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, true)


def test_scores_of_a_large_problem_are_not_kept():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        inputs = [x.requires_grad_() for x in make(64, 2, 4, 20_000, 3)]
        ours(*inputs, beta=1.0)
    assert sum(saved) < 64 * 20_000 / 4


@pytest.mark.parametrize("beta", BETAS)
def test_extreme_and_equal_scores(beta):
    interests = torch.full((3, 2, 1), 100.0)
    target = torch.tensor([[100.0], [-100.0], [100.0]])
    negatives = torch.tensor([[100.0], [-100.0], [0.0], [99.0]])
    routing = torch.full((3, 2, 4), 0.25)
    loss, rr, *gradients = with_gradients(
        lambda *x: ours(*x, beta=beta), [interests, target, negatives, routing]
    )
    assert all(torch.isfinite(x).all() for x in (loss, *gradients))
    assert loss[1] > 19_000 and loss[0] < 10 and rr.tolist() == [0, 0, 0]
    loss, *_ = with_gradients(
        lambda *x: ours(*x, beta=beta), [interests, target, torch.full((9, 1), 100.0), routing]
    )
    torch.testing.assert_close(loss[0], torch.tensor(10.0).log())  # softplus(log 9)


@pytest.mark.parametrize("beta", BETAS)
def test_nan_reaches_the_loss(beta):
    inputs = make(5, 2, 4, 40, 3)
    inputs[2][7, 1] = math.nan
    assert ours(*inputs, beta=beta)[0].isnan().all()
    inputs = make(5, 2, 4, 40, 3)
    inputs[0][2, 1, 0] = math.nan
    loss, chosen, _ = native.multi_interest_ihn_loss_rows(*inputs, beta=beta)
    assert loss.isnan().tolist() == [i == 2 for i in range(5)] and chosen[2] == 1


@pytest.mark.parametrize("beta", BETAS)
def test_users_without_negatives_lose_nothing(beta):
    ids = torch.full((35,), 5)
    ids[1] = 6
    masks = {"target_ids": ids, "negative_ids": torch.tensor([5, 5])}
    loss, _, interests, target, negatives, _ = with_gradients(
        lambda *x: ours(*x, beta=beta, **masks), make(35, 2, 4, 2, 3)
    )
    for x in (loss, interests, target):
        assert (x[0] == 0).all() and (x[2:] == 0).all() and (x[1] != 0).any()
    assert negatives.isfinite().all()


def test_the_first_of_equal_interests_is_chosen():
    interests = torch.ones(2, 3, 4)
    interests[1, 1:] = 2
    inputs = (interests, torch.ones(2, 4), torch.zeros(5, 4), None)
    _, chosen, _ = native.multi_interest_ihn_loss_rows(*inputs, beta=1.0)
    assert chosen.tolist() == [0, 1]


@pytest.mark.parametrize("batch, negatives", [(0, 5), (3, 0), (0, 0)])
def test_empty(batch, negatives):
    loss, rr, *gradients = with_gradients(
        lambda *x: ours(*x, beta=1.0), make(batch, 2, 4, negatives, 3)
    )
    assert loss.tolist() == [0] * batch and rr.shape == (batch,)
    assert all((g == 0).all() for g in gradients[:3])


def test_strided_inputs_and_expanded_gradients():
    inputs = make(34, 3, 20, 50, 6)
    plain = [x.clone().requires_grad_() for x in inputs]
    strided = [torch.stack([x, x], dim=-1)[..., 0].requires_grad_() for x in inputs]
    for leaves in (plain, strided):
        loss, rr = ours(*leaves, beta=1.0)
        (loss.mean() + rr.sum()).backward()
    for one, other in zip(plain, strided, strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # C++, PyTorch tiles
def test_second_derivative_is_an_error(dtype):
    query, target, negatives = (torch.randn(n, 4, dtype=dtype) for n in (3, 3, 5))
    loss = F.ihn_loss(query.requires_grad_(), target, negatives, beta=1.0, backend="native")
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss.sum(), query, create_graph=True)


def test_compiled_around():
    """torch.compile leaves the call to the extension out of its graph."""
    inputs = make(5, 2, 4, 30, 3)
    compiled = torch.compile(lambda *x: ours(*x, beta=1.0)[0] * 2, backend="eager")
    assert torch.equal(compiled(*inputs), ours(*inputs, beta=1.0)[0] * 2)


@pytest.mark.parametrize("level", ["plain", "avx2", "avx512"])
def test_every_instruction_set(level):
    """In a process of its own: the choice is made once. Plain has no C++ loss, but one all the
    same."""
    code = """
import torch, remi_fast.functional as F
from remi_fast.kernels.native import C
torch.manual_seed(0)
x = [torch.randn(s).mul(0.5).requires_grad_() for s in ((40, 3, 50), (300, 50))]
ids = torch.randint(1, 300, (40,)), torch.randint(1, 300, (200,))
results = []
for backend in ("native", "reference"):
    for beta in (0.0, 0.37, 1.0):
        loss, _ = F.multi_interest_ihn_loss(x[0], ids[0], x[1], ids[1], beta=beta, backend=backend)
        results.append([loss, *torch.autograd.grad(loss.sum(), x)])
for one, other in zip(results[:3], results[3:]):
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
print(C.ihn_loss_available())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env=os.environ | {"REMI_FAST_SIMD": level},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(level != "plain")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target": torch.zeros(3, 5)}, r"target: got shape \(3, 5\), expected \(3, 4\)"),
        ({"negatives": torch.zeros(5)}, "negatives: expected 2 dimensions"),
        (
            {"routing": torch.zeros(3, 1, 6)},
            r"routing: got shape \(3, 1, 6\), expected \(3, 2, 6\)",
        ),
        ({"target_ids": torch.zeros(3)}, "expected both or neither"),
        ({"log_q": torch.zeros(2)}, r"importance: got shape \(2,\), expected \(5,\)"),
    ],
)
def test_the_extension_checks_shapes(change, message):
    arguments = {
        "interests": torch.zeros(3, 2, 4),
        "target": torch.zeros(3, 4),
        "negatives": torch.zeros(5, 4),
        "routing": torch.zeros(3, 2, 6),
        "beta": 1.0,
    } | change
    with pytest.raises(ValueError, match=message):
        native.multi_interest_ihn_loss_rows(**arguments)


def test_more_negatives_than_an_index_holds():
    with pytest.raises(ValueError, match=r"negatives: got 2147483648, expected fewer than 2\^31"):
        check_options(torch.zeros(3, 4), 2**31, beta=1.0)
