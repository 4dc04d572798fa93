"""The chosen interest and RR by the Triton extractor, against their formula in float64, on the GPU
if there is one, else in the interpreter. What it shares with the extractor is tested with that."""

import pytest
import torch

from remi_fast.kernels import self_attentive_launch
from remi_fast.kernels.self_attentive_query import self_attentive_query
from tests.device import DEVICE
from tests.kernels import test_self_attentive_triton as extractor
from tests.kernels.errors import with_gradients, within_budget
from tests.kernels.test_capsule_routing import Watched
from tests.kernels.test_self_attentive_triton import SHAPES, double, small_tiles

__all__ = ["small_tiles"]  # a fixture that every test uses


def make(batch, places, dim, hidden, interests, *, seed=0, **options):
    """history, length, positions, w1, w2 and target."""
    problem = extractor.make(batch, places, dim, hidden, interests, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed + 1)
    target = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    return *problem, target.to(problem[0])


def run(problem, backend="triton", used=(0, 2)):
    """Query and RR, and the gradients of history, positions, w1 and w2."""
    history, length, *parameters, target = problem

    def operation(h, *p):
        results = self_attentive_query(h, length, *p, target, backend=backend)
        return [results[i] for i in used]

    return with_gradients(operation, (history, *parameters))


def chosen(problem, backend="triton"):
    return self_attentive_query(*problem, backend=backend)[1].tolist()


@pytest.mark.parametrize("backend", ["triton", "native"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_float64_autograd(shape, backend):
    problem = make(*shape)
    found, truth = run(problem, backend), run(problem, "reference")
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)
    assert chosen(problem, backend) == chosen(problem, "reference")


def test_it_is_the_extractor_s_interest_of_each_user():
    problem = make(7, 5, 6, 20, 4)
    interests, _ = extractor.self_attentive_extractor(*problem[:-1], backend="triton")
    query, choice, _ = self_attentive_query(*problem, backend="triton")
    assert choice.dtype == torch.int64 and len(set(choice.tolist())) > 2
    assert torch.equal(query, interests[torch.arange(7, device=DEVICE), choice])


def within_budget_of(problems, used=(0, 2)):
    """Of several problems at once, each number beside the largest of its tensor: RR is a difference
    of nearly equal numbers, and in one problem errors of the formula may happen to cancel."""
    ours, eager, truth = [], [], []
    for problem in problems:
        assert chosen(problem) == chosen(double(problem), "reference")
        exact = run(double(problem), "reference", used)
        largest = [x.abs().max() for x in exact]
        for made, results in (
            (ours, run(problem, used=used)), (eager, run(problem, "reference", used)),
            (truth, exact),
        ):  # fmt: skip
            made.append([x / most.to(x) for x, most in zip(results, largest, strict=True)])
    within_budget(*([torch.stack(x) for x in zip(*m, strict=True)] for m in (ours, eager, truth)))


@pytest.mark.parametrize(
    "sizes, count",
    [((4, 20, 64, 16, 4), 4), ((1, 256, 16, 16, 2), 2), ((1, 17, 256, 16, 16), 1)],
)
def test_tiles_as_they_are_on_a_gpu(sizes, count, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(self_attentive_launch, "_PROGRAMS", 1)  # as many rows as in a large batch
    within_budget_of([make(*sizes, seed=i, dtype=torch.float32, scale=0.2) for i in range(count)])


@pytest.mark.parametrize("used, scale", [((0, 2), 0.1), ((0, 2), 2.0), ((2,), 0.5)])
@pytest.mark.parametrize("shape", SHAPES[1:4])
def test_float32_error_budget(shape, scale, used):
    problems = [make(*shape, seed=i, dtype=torch.float32, scale=scale) for i in range(4)]
    within_budget_of(problems, used)


@pytest.mark.parametrize("used", [(0,), (2,)])
def test_one_of_the_results_is_used(used):
    problem = make(3, 5, 4, 6, 2)
    found, truth = run(problem, used=used), run(problem, "reference", used)
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Sums in float32, results and gradients in the inputs' dtype."""
    problem = make(7, 5, 16, 32, 4, dtype=dtype, scale=0.5)
    found = run(problem)
    assert {x.dtype for x in found} == {dtype}
    within_budget(found, run(problem, "reference"), run(double(problem), "reference"))


def test_autocast_multiplies_in_its_dtype_and_leaves_that_of_the_history():
    *problem, target = make(3, 4, 16, 32, 2, dtype=torch.float32, scale=0.5)
    exact = self_attentive_query(*problem, target, backend="triton")
    with torch.autocast(DEVICE, dtype=torch.float16):
        found = self_attentive_query(*problem, target, backend="triton")
        mixed = self_attentive_query(*problem, target.half(), backend="triton")
    for mine, wanted, other in zip(found, exact, mixed, strict=True):
        assert mine.dtype == wanted.dtype and torch.equal(mine, other)
        torch.testing.assert_close(mine, wanted, rtol=1e-2, atol=1e-2)
    assert not torch.equal(found[0], exact[0]) and not torch.equal(found[2], exact[2])


@pytest.mark.parametrize("places", [3, 17])
def test_gradcheck(places):
    history, length, *parameters, target = make(2, places, 2, 3, 2)
    length[1] = 2

    def selected(*x):
        query, _, rr = self_attentive_query(x[0], length.int(), *x[1:], target, backend="triton")
        return query, 10 * rr

    leaves = [x.requires_grad_() for x in (history, *parameters)]
    assert torch.autograd.gradcheck(
        selected, leaves, atol=1e-6, rtol=1e-4, nondet_tol=0.0, fast_mode=places > 3
    )


@pytest.mark.parametrize("places", [6, 20])
def test_padding_counts_as_a_weight_of_zero_and_an_empty_history_is_zero(places):
    history, length, *others = make(4, places, 5, 12, 3, dtype=torch.float32)
    length[2:] = torch.tensor([1, 2])
    padding = torch.arange(places, device=DEVICE) >= length[:, None]
    history[padding] = torch.nan
    query, rr, grad_history, *gradients = run((history, length, *others))
    assert (query[1] == 0).all() and rr[1] == 0 and (rr[[0, 2, 3]] > 0).all()
    torch.testing.assert_close(rr[2].item(), 3 * ((1 - 1 / places) / 5) ** 2, rtol=1e-5, atol=0)
    assert (grad_history[padding] == 0).all()
    assert all(x.isfinite().all() for x in (query, rr, *gradients))
    history[padding] = 7
    problem = (history, length, *others)
    torch.testing.assert_close(run(problem), run(problem, "reference"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("interests", [1, 3, 4])
@pytest.mark.parametrize("bad", ["none", "nan", "two nan", "inf", "all nan"])
def test_ties_go_to_the_first_interest_and_nan_is_not_passed_over(interests, bad):
    """As torch.argmax has it. One user a tile: NaN would reach others."""
    history, length, positions, w1, w2, target = make(3, 12, 5, 12, interests)
    w2 = w2[:, :1].repeat(1, interests)  # all alike
    length[:] = 12
    if bad in ("nan", "two nan"):
        w2[:, interests - 1] = torch.nan
    if bad == "two nan":
        w2[:, interests // 2] = torch.nan
    if bad == "inf":
        target[1] = torch.inf
    if bad == "all nan":
        target[1] = torch.nan
    problem = (history, length, positions, w1, w2, target)
    expected = {"nan": interests - 1, "two nan": interests // 2}.get(bad, 0)
    assert chosen(problem) == chosen(problem, "reference") == 3 * [expected]
    found, truth = (self_attentive_query(*problem, backend=x) for x in ("triton", "reference"))
    torch.testing.assert_close(found, truth, equal_nan=True)


def test_the_best_of_equals_is_the_first_of_them():
    history, length, positions, w1, w2, target = make(5, 9, 5, 12, 6)
    w2[:, 3:] = w2[:, :3]
    choice = chosen((history, length, positions, w1, w2, target))
    assert choice == chosen((history, length, positions, w1, w2, target), "reference")
    assert max(choice) < 3 and len(set(choice)) == 3


@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_below_zero(sign):
    """A column of no interest, whose score would be 0, is not the largest."""
    history, length, positions, w1, w2, _ = make(5, 4, 5, 12, 3)
    history = history.abs()
    target = sign * torch.ones(5, 5, dtype=torch.float64, device=DEVICE)
    problem = (history, length, positions, w1, w2, target)
    assert chosen(problem) == chosen(problem, "reference")
    torch.testing.assert_close(run(problem), run(problem, "reference"), rtol=1e-10, atol=1e-12)


def test_what_is_stored_is_compared():
    """Interests that differ in float32 only are equal, as for the reference."""
    history, length, positions, w1, w2, target = make(6, 1, 8, 12, 3, dtype=torch.bfloat16)
    problem = (history, length, positions, w1, w2, target)
    assert chosen(problem) == [0] * 6
    wide = make(40, 5, 8, 12, 4, dtype=torch.bfloat16)
    history, length, positions, w1, w2, target = wide
    near = w2.clone()
    near[:, 1:] = near[:, :1] * (1 + 2**-7)
    problem = (history, length, positions, w1, near, target)
    interests, _ = extractor.self_attentive_extractor(*problem[:-1], backend="triton")
    scores = (interests.float() * target.float()[:, None]).sum(dim=2)
    assert chosen(problem) == scores.argmax(dim=1).tolist()


@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize("places", [9, 40])
def test_peaked_logits(places, direction):
    """Rising or falling over the tiles, far beyond what exp can take in float64."""
    history, length, positions, w1, w2, target = make(2, places, 4, 3, 2)
    ramp = direction * torch.linspace(-1, 1, places)
    history, positions = history * 0.1, ramp[:, None].expand(places, 4).to(history).contiguous()
    length[1] = places // 2
    problem = (history, length, positions, w1.abs(), 2000 * w2.abs(), target)
    found, truth = run(problem), run(problem, "reference")
    assert all(x.isfinite().all() for x in found)
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-8)
    assert found[1].max() > 0.9 * 2 * ((1 - 1 / places) / 4) ** 2  # one weight is 1


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_extreme_histories(scale):
    history, *others = make(3, 6, 4, 8, 2, dtype=torch.float32)
    problem = (history * scale, *others)
    truth = run(double(problem), "reference")
    within_budget(run(problem), run(problem, "reference"), truth)


def test_uniform_routing_has_no_variance():
    history, length, positions, w1, w2, target = make(3, 40, 4, 8, 2, dtype=torch.float32)
    length[:] = 40
    problem = (history, length, positions, w1, 0 * w2, target)
    found = run(problem, used=(2,))
    assert all((x.abs() <= 1e-12).all() for x in found)


def test_no_users():
    query, rr, *gradients = run(make(0, 5, 4, 6, 3))
    assert query.shape == (0, 4) and rr.shape == (0,) and gradients[0].shape == (0, 5, 4)
    assert all((x == 0).all() and x.isfinite().all() for x in gradients)


def test_non_contiguous_inputs():
    history, length, *parameters, target = make(4, 6, 5, 8, 3)
    plain = run((history, length, *parameters, target))

    def spread(x):
        return torch.stack([x, x], dim=-1)[..., 0]  # elements two apart

    leaves = [spread(x).requires_grad_() for x in (history, *parameters)]
    query, choice, rr = self_attentive_query(
        leaves[0], spread(length), *leaves[1:], spread(target), backend="triton"
    )
    assert torch.equal(query, plain[0]) and torch.equal(rr, plain[1])
    assert choice.tolist() == chosen((history, length, *parameters, target), "reference")
    found = torch.autograd.grad([query, rr], leaves, [spread(query), spread(rr)])
    dense = [x.detach().contiguous().requires_grad_() for x in leaves]
    query, _, rr = self_attentive_query(dense[0], length, *dense[1:], target, backend="triton")
    assert all(map(torch.equal, found, torch.autograd.grad([query, rr], dense, [query, rr])))


def test_same_bits_every_time():
    problem = make(13, 5, 6, 20, 3, dtype=torch.float32)
    first = run(problem)
    for _ in range(2):
        assert all(map(torch.equal, first, run(problem)))


def test_the_target_has_no_gradient():
    history, length, *parameters, target = make(3, 5, 4, 6, 2)
    leaves = [history.requires_grad_(), target.requires_grad_()]
    query, choice, rr = self_attentive_query(history, length, *parameters, target, backend="triton")
    assert not choice.requires_grad
    found = torch.autograd.grad(query.sum() + rr.sum(), leaves, allow_unused=True)
    assert found[0] is not None and found[1] is None


def test_other_interests_are_not_stored_and_no_gradient_is_spread(monkeypatch):
    """One launch forward, two backward; nothing waits for the device."""
    batch, places, dim, interests = 60, 4, 16, 8
    history, length, *parameters, target = make(batch, places, dim, 32, interests)
    leaves, launched = [x.requires_grad_() for x in (history, *parameters)], []

    def launch(kernel, *_, **__):
        launched.append(kernel.__name__)  # Triton's interpreter does what a GPU does not

    monkeypatch.setattr(self_attentive_launch, "launch", launch)
    with Watched() as watched:
        query, _, rr = self_attentive_query(history, length, *parameters, target, backend="triton")
        slopes = torch.empty_like(query), torch.empty_like(rr)
        torch.autograd.grad([query, rr], leaves, slopes)
    assert launched == ["attention_kernel", "gradients_kernel", "sum_kernel"]
    assert watched.largest <= history.numel() < batch * interests * dim


def test_second_derivative_is_an_error():
    history, *others = make(2, 4, 3, 5, 2)
    query, _, _ = self_attentive_query(history.requires_grad_(), *others, backend="triton")
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(query.sum(), history, create_graph=True)


@pytest.mark.parametrize("backend", ["auto", "triton", "native", "reference"])
def test_what_does_not_fit_is_an_error(backend):
    *problem, target = make(2, 4, 3, 5, 2, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"target: got shape \(2, 2\), expected \(2, 3\)"):
        self_attentive_query(*problem, target[:, :2], backend=backend)
    with pytest.raises(ValueError, match="target: got dtype torch.float64, expected torch.float32"):
        self_attentive_query(*problem, target.double(), backend=backend)
    with pytest.raises(TypeError, match="target: got NoneType, expected a tensor"):
        self_attentive_query(*problem, None, backend=backend)
    with pytest.raises(ValueError, match=r"length: got shape \(1,\), expected \(2,\)"):
        self_attentive_query(problem[0], problem[1][:1], *problem[2:], target, backend=backend)


def test_too_large_for_triton():
    problem = make(1, 1, 1, 1, 17)
    with pytest.raises(ValueError, match="triton' cannot: got 17 interests, at most 16"):
        self_attentive_query(*problem, backend="triton")
    self_attentive_query(*problem)
