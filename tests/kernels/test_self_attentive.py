"""The packed self-attentive extractor against its padded formula."""

import pytest
import torch

from remi_fast.kernels.native import C
from remi_fast.kernels.self_attentive import self_attentive_extractor
from tests.kernels.errors import with_gradients, within_budget


def make(batch, length, dim, interests, *, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, length, dim), (length, dim), (dim, 4 * dim), (4 * dim, interests))
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) * scale for s in shapes]
    lengths = torch.randint(0, length + 1, (batch,), generator=generator)
    lengths[: min(batch, 2)] = torch.tensor([length, 1])[: min(batch, 2)]
    tensors[0][torch.arange(length)[None, :] >= lengths[:, None]] = 0  # padding rows are zero
    return [t.to(dtype) for t in tensors], lengths


def run(inputs, lengths, backend):
    history, *parameters = inputs
    return with_gradients(
        lambda h, *p: self_attentive_extractor(h, lengths, *p, backend=backend),
        [history, *parameters],
    )


SHAPES = [(1, 1, 1, 1), (5, 7, 8, 3), (3, 20, 5, 4), (2, 40, 16, 1), (4, 3, 12, 16)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_matches_float64_autograd(shape, scale):
    inputs, lengths = make(*shape, scale=scale)
    exact = run(inputs, lengths, "reference")
    for ours, truth in zip(run(inputs, lengths, "native"), exact, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(7, 5, 6, 3), (64, 20, 32, 4), (128, 20, 64, 4)])
@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_float32_error_budget(shape, scale):
    inputs, lengths = make(*shape, scale=scale, dtype=torch.float32)
    truth = run([x.double() for x in inputs], lengths, "reference")
    within_budget(run(inputs, lengths, "native"), run(inputs, lengths, "reference"), truth)


def test_gradcheck():
    inputs, lengths = make(3, 4, 3, 2)

    def function(*x):
        return self_attentive_extractor(x[0], lengths, *x[1:], backend="native")

    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-6, rtol=1e-4, nondet_tol=0.0)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_routing_is_a_distribution_over_the_real_positions(backend):
    inputs, lengths = make(6, 5, 4, 3)
    lengths[2] = 0
    interests, routing = self_attentive_extractor(inputs[0], lengths, *inputs[1:], backend=backend)
    real = torch.arange(5)[None, :] < lengths[:, None]
    assert (routing.masked_select(~real[:, None, :].expand_as(routing)) == 0).all()
    sums = routing.sum(dim=2)
    assert sums[2].abs().sum() == 0 and interests[2].abs().sum() == 0
    others = torch.arange(6) != 2
    torch.testing.assert_close(sums[others], torch.ones_like(sums[others]))


def test_non_contiguous_history_and_same_bits_twice():
    inputs, lengths = make(8, 6, 10, 4, dtype=torch.float32)
    strided = [inputs[0].transpose(0, 1).contiguous().transpose(0, 1), *inputs[1:]]
    first, again = run(strided, lengths, "native"), run(strided, lengths, "native")
    plain = run(inputs, lengths, "native")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for a, b in zip(first, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_tanh_is_accurate_everywhere():
    x = torch.cat(
        [
            torch.linspace(-12, 12, 400_001),
            torch.logspace(-38, 1, 50_000),
            -torch.logspace(-38, 1, 50_000),
            torch.tensor([0.0, 1e30, -1e30, float("inf"), -float("inf")]),
        ]
    )
    x = x[: len(x) // 7 * 7].view(-1, 7)
    ours, logits = x.clone(), torch.empty(len(x), 2)
    projection = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    C.tanh_project(ours.numpy(), projection.numpy(), logits.numpy())
    exact = torch.tanh(x.double())
    spacing = exact.abs().clamp_min(1e-38) * torch.finfo(torch.float32).eps
    assert ((ours.double() - exact).abs() / spacing).max() < 3
    torch.testing.assert_close(logits, ours @ projection.T, rtol=1e-5, atol=1e-6)


def test_tanh_hands_nan_on():
    x = torch.full((1, 16), float("nan"))
    C.tanh_project(x.numpy(), torch.ones(1, 16).numpy(), torch.empty(1, 1).numpy())
    assert x.isnan().all()


def test_native_code_refuses_other_dtypes_and_shapes():
    good = torch.zeros(3, 4).numpy()
    with pytest.raises(TypeError):
        C.tanh_project(good.astype("float64"), good, good)
    with pytest.raises(ValueError, match="projection"):
        C.tanh_project(good, good[:, :2].copy(), good)


def test_second_derivative_is_an_error():
    inputs, lengths = make(3, 4, 5, 2)
    leaves = [x.requires_grad_() for x in inputs]
    interests, _ = self_attentive_extractor(leaves[0], lengths, *leaves[1:], backend="native")
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(interests.sum(), leaves, create_graph=True)
