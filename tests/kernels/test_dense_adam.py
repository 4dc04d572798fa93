"""Adam in one launch: against torch.optim.Adam in float64, its edges, and what holds it back."""

import itertools
import math

import pytest
import torch

from remi_fast.kernels import dense_adam_launch as launches
from remi_fast.kernels.deferred_adam_state import StepTable
from remi_fast.kernels.dense_adam import DenseWeights, update
from tests.device import DEVICE

BACKENDS = ("triton", "reference")
SHAPES = ((), (1,), (7, 3), (0,), (31,), (4, 8), (33,), (3, 0), (9, 11))
STEPS = 25
BETAS = ((0.9, 0.999), (0.5, 0.999), (0.95, 0.9))


def shape_triton(monkeypatch):
    """Several programs of the larger tensors."""
    monkeypatch.setattr(launches, "_ELEMENTS", 32)


@pytest.fixture(autouse=True)
def few_elements(monkeypatch):
    shape_triton(monkeypatch)


def rate(step):
    """Learning rate of a step, from 0: another one each, and none at first."""
    return 0.01 * math.sin(step / 7) ** 2


def fresh(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(1)
    weight = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    moments = [[torch.zeros(s, dtype=dtype, device=DEVICE) for s in shapes] for _ in range(3)]
    counts = [torch.zeros((), device=DEVICE) for _ in shapes]
    return DenseWeights([x.to(DEVICE, dtype) for x in weight], *moments, counts)


def give_gradients(weights, step, scale=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for x in weights.gradient:
        x.copy_(scale * torch.randn(x.shape, generator=generator, dtype=torch.float64))


def made(weights, steps, backend="triton", scale=1.0, betas=BETAS[0], **options):
    """Steps 0 to `steps` - 1."""
    table = StepTable(*betas, 1e-8)
    for step in range(steps):
        give_gradients(weights, step, scale)
        table.advance(rate(step))
        number = torch.tensor([step], device=DEVICE)
        update(weights, table, number, backend=backend, **options)
    return weights


def by_torch(weights, steps, scale=1.0, betas=BETAS[0]):
    """The same by torch's optimizer."""
    parameters = [x.clone().requires_grad_() for x in weights.weight]
    optimizer = torch.optim.Adam(parameters, betas=betas, fused=True)
    for step in range(steps):
        give_gradients(weights, step, scale)
        for x, gradient in zip(parameters, weights.gradient, strict=True):
            x.grad = gradient
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
    state = [[optimizer.state[x][name] for x in parameters] for name in ("exp_avg", "exp_avg_sq")]
    return [x.detach() for x in parameters], *state


def errors(found, exact):
    """The largest relative error of weights and both moments."""
    for mine, its in zip(found, exact, strict=True):
        pairs = [(a, b) for a, b in zip(mine, its, strict=True) if a.numel()]
        yield max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs)


def updated(weights):
    return weights.weight, weights.exp_avg, weights.exp_avg_sq


def bits(weights):
    kinds = (*updated(weights), weights.step)
    return [x.clone().view(torch.int32) for kind in kinds for x in kind]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e15])
def test_errs_no_more_than_twice_what_torch_does(scale, betas):
    exact = by_torch(fresh(torch.float64), STEPS, scale, betas)
    budget = errors(by_torch(fresh(), STEPS, scale, betas), exact)
    mine = errors(updated(made(fresh(), STEPS, scale=scale, betas=betas)), exact)
    for error, allowed in zip(mine, budget, strict=True):
        assert error <= 2 * allowed


def test_the_reference_is_torch_s_formula():
    mine = made(fresh(torch.float64), STEPS, "reference")
    exact = by_torch(fresh(torch.float64), STEPS)
    assert max(errors(updated(mine), exact)) < 1e-14


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_counted(backend):
    weights = made(fresh(), 3, backend)
    assert [float(x) for x in weights.step] == [3.0] * len(SHAPES)
    table = StepTable(0.9, 0.999, 1e-8)
    for _ in range(10):
        table.advance(1e-3)
    update(weights, table, torch.tensor([8], device=DEVICE), backend=backend)
    assert [float(x) for x in weights.step] == [9.0] * len(SHAPES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("found", [0.0, 1.0])
def test_nothing_is_changed_where_something_was_found(backend, found):
    weights, flag = made(fresh(), 2), torch.full((), found, device=DEVICE)
    before = bits(weights)
    made(weights, 1, backend, found_inf=flag)
    changed = [not torch.equal(a, b) for a, b in zip(bits(weights), before, strict=True)]
    empty = [math.prod(shape) == 0 for shape in SHAPES]
    moved = [x and not none for x, none in zip(itertools.repeat(found == 0), empty, strict=False)]
    counted = [found == 0] * len(SHAPES)
    assert changed[len(SHAPES) :] == [*moved, *moved, *counted]  # at rate 0: moments and counts
    made(weights, 2, backend, found_inf=flag)
    changed = [not torch.equal(a, b) for a, b in zip(bits(weights), before, strict=True)]
    assert changed[: len(SHAPES)] == moved


def test_the_same_bits_twice_and_for_any_number_of_elements_a_program(monkeypatch):
    first = bits(made(fresh(), 5))
    assert same(first, bits(made(fresh(), 5)))
    monkeypatch.setattr(launches, "_ELEMENTS", 256)
    assert same(first, bits(made(fresh(), 5)))


EXTREMES = [0.0, 1e-45, -1e-40, 1e-30, 1e-22, 1e-10, 1e10, -1e18, 1e19, 1e20, 1e25, 3e38, -3e38]


def after_extremes(backend, dtype=torch.float32):
    weights = fresh(dtype, shapes=[(len(EXTREMES),)])
    table = StepTable(0.9, 0.999, 1e-8)
    for step in range(3):
        weights.gradient[0].copy_(torch.tensor(EXTREMES, dtype=torch.float64))
        table.advance(0.1)
        number = torch.tensor([step], device=DEVICE)
        update(weights, table, number, backend=backend)
    return [kind[0].cpu().double() for kind in updated(weights)]


def test_extreme_gradients():
    """Second moments that no float holds are 0 or infinite; then a weight hardly moves, or not."""
    weight, exp_avg, exp_avg_sq = after_extremes("triton")
    exact = after_extremes("reference", torch.float64)
    torch.testing.assert_close(exp_avg, exact[1], rtol=1e-6, atol=1e-38)
    infinite = exact[2] > torch.finfo(torch.float32).max
    assert infinite.tolist() == [abs(gradient) > 1e21 for gradient in EXTREMES]
    expected = torch.where(infinite, math.inf, exact[2])
    torch.testing.assert_close(exp_avg_sq, expected, rtol=1e-5, atol=1e-38)
    start = fresh(shapes=[(len(EXTREMES),)]).weight[0].cpu().double()
    expected = torch.where(infinite, start, exact[0])
    torch.testing.assert_close(weight, expected, rtol=1e-6, atol=0)


def test_strided_gradients():
    weights, other = fresh(), fresh()
    wide = [torch.full((*x.shape, 2), torch.nan, device=DEVICE) for x in weights.gradient]
    strided = weights._replace(gradient=[x[..., 0] for x in wide])
    assert same(bits(made(strided, 2)), bits(made(other, 2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_weights(backend):
    number = torch.tensor([0], device=DEVICE)
    table, none = StepTable(0.9, 0.999, 1e-8), DenseWeights([], [], [], [], [])
    update(none, table, number, backend=backend)
    assert number.item() == 0 and table.step == 0 and not any(none)


def test_what_does_not_fit():
    weights, table = fresh(), StepTable(0.9, 0.999, 1e-8)
    number = torch.tensor([0], device=DEVICE)

    def refused(error, message, number=number, **changes):
        with pytest.raises(error, match=message):
            update(weights._replace(**changes), table, number, backend="triton")

    refused(ValueError, "exp_avg: got 8 tensors, expected one of each of 9 weights",
            exp_avg=weights.exp_avg[1:])  # fmt: skip
    wrong = [*weights.gradient[:2], torch.zeros(3, 7, device=DEVICE), *weights.gradient[3:]]
    refused(ValueError, r"gradient 2: got \(\(3, 7\), .*expected \(\(7, 3\)", gradient=wrong)
    wrong = [*weights.exp_avg[:2], torch.zeros(3, 7, device=DEVICE).T, *weights.exp_avg[3:]]
    refused(ValueError, r"exp_avg 2: got strides \(1, 7\), expected a contiguous", exp_avg=wrong)
    wrong = [*weights.step[:8], torch.zeros((), dtype=torch.int64, device=DEVICE)]
    refused(ValueError, r"step 8: got \(\(\), torch.int64", step=wrong)
    refused(TypeError, r"number: got torch.int32 of shape \(1,\), expected one int64",
            number=number.int())  # fmt: skip
    refused(TypeError, "number: got int, expected a tensor", number=0)
    with pytest.raises(ValueError, match="backend 'triton' cannot: it takes float32 only"):
        update(fresh(torch.float64), table, number, backend="triton")
