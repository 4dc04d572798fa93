"""DenseAdam against torch.optim.Adam in float64, and its refusals."""

import copy

import numpy as np
import pytest
import torch

from remi_fast.kernels.native import C
from remi_fast.training.dense_adam import DenseAdam

SHAPES = ((), (1,), (7, 3), (64, 33), (5000,), (3, 0))
STEPS = 60


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]


def give_gradients(weights, step, scale=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for x in weights:
        x.grad = (scale * torch.randn(x.shape, generator=generator)).to(x.dtype)


def trained(optimizer_of, dtype=torch.float32, scale=1.0):
    weights = parameters(dtype)
    optimizer = optimizer_of(weights)
    for step in range(STEPS):
        give_gradients(weights, step, scale)
        if isinstance(optimizer, DenseAdam):
            assert optimizer.step_if_finite()
        else:
            optimizer.step()
    moments = [optimizer.state[x][name] for name in ("exp_avg", "exp_avg_sq") for x in weights]
    assert all(float(optimizer.state[x]["step"]) == STEPS for x in weights)
    return [x.detach() for x in weights] + moments


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-9, 1e15])
def test_as_exact_as_torch(scale):
    exact = trained(lambda x: torch.optim.Adam(x, lr=0.01), torch.float64, scale)
    torchs = trained(lambda x: torch.optim.Adam(x, lr=0.01, fused=True), scale=scale)
    ours = trained(lambda x: DenseAdam(x, lr=0.01), scale=scale)
    kinds = len(exact) // len(SHAPES)  # weights and both moments
    for error, budget in zip(errors(ours, exact, kinds), errors(torchs, exact, kinds), strict=True):
        assert error <= 2 * budget


def errors(found, exact, kinds):
    """The largest relative error of each kind of tensor."""
    pairs = zip(found, exact, strict=True)
    each = [float((x - y).abs().max() / y.abs().max()) if y.numel() else 0.0 for x, y in pairs]
    return [max(each[len(SHAPES) * i : len(SHAPES) * (i + 1)]) for i in range(kinds)]


def test_the_reference_is_torch():
    ours = trained(lambda x: DenseAdam(x, lr=0.01, backend="reference"))
    torchs = trained(lambda x: torch.optim.Adam(x, lr=0.01, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


def test_same_bits_twice():
    one, other = (trained(lambda x: DenseAdam(x, lr=0.01)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_goes_on_from_a_state_dict_with_the_same_bits():
    results = []
    for stops in (False, True):
        weights = parameters()
        optimizer = DenseAdam(weights, lr=0.01)
        for step in range(8):
            if step == 5:
                optimizer.param_groups[0]["lr"] = 0.1
                if stops:
                    state = optimizer.state_dict()
                    weights = [x.detach().clone().requires_grad_() for x in weights]
                    optimizer = DenseAdam(weights, lr=1.0)
                    optimizer.load_state_dict(state)
            give_gradients(weights, step)
            optimizer.step_if_finite()
        results.append(weights)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert float((results[0][4].detach() - trained_for(8)).abs().max()) > 0.05


def trained_for(steps):
    weights = parameters()
    optimizer = DenseAdam(weights, lr=0.01)
    for step in range(steps):
        give_gradients(weights, step)
        optimizer.step_if_finite()
    return weights[4].detach()


def test_a_state_that_was_loaded_is_the_one_that_moves():
    weights = parameters()
    optimizer = DenseAdam(weights, lr=0.01)
    for step in range(3):
        give_gradients(weights, step)
        optimizer.step_if_finite()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = optimizer.state[weights[2]]["exp_avg"].clone()
    give_gradients(weights, 3)
    assert optimizer.step_if_finite()
    assert not torch.equal(optimizer.state[weights[2]]["exp_avg"], before)
    assert float(optimizer.state[weights[2]]["step"]) == 4


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("place", "steps"),
    [(place, steps) for place in ("weight", "gradient") for steps in (0, 3)]
    + [(place, steps) for place in ("exp_avg", "exp_avg_sq") for steps in (1, 3)],
)
def test_what_is_not_finite_changes_nothing(place, steps, backend):
    for bad in (torch.nan, torch.inf, -torch.inf):
        weights = parameters()
        optimizer = DenseAdam(weights, lr=0.01, backend=backend)
        for step in range(steps):
            give_gradients(weights, step)
            assert optimizer.step_if_finite()
        give_gradients(weights, steps)
        last = weights[4]
        places = {"weight": last.detach(), "gradient": last.grad}
        places |= {k: v for k, v in optimizer.state.get(last, {}).items() if k != "step"}
        places[place][-1] = bad
        before = [x.detach().clone() for x in weights] + state_of(optimizer)
        assert not optimizer.step_if_finite()
        after = [x.detach() for x in weights] + state_of(optimizer)
        assert all(
            torch.equal(a.nan_to_num(7), b.nan_to_num(7))
            for a, b in zip(before, after, strict=True)
        )


def state_of(optimizer):
    return [x.clone() for state in optimizer.state.values() for x in state.values()]


def test_takes_what_cpp_cannot():
    """float64, strided gradients, and weights without one."""
    for dtype, strided, unused in (
        (torch.float64, False, []),
        (torch.float32, True, []),
        (torch.float32, False, [torch.ones(2, requires_grad=True)]),
    ):
        weight = torch.ones(4, 3, dtype=dtype, requires_grad=True)
        optimizer = DenseAdam([weight, *unused], lr=0.01)
        for _ in range(3):
            weight.grad = torch.ones(3, 4, dtype=dtype).T if strided else torch.ones_like(weight)
            assert optimizer.step_if_finite()
        assert torch.allclose(weight, torch.full_like(weight, 0.97))
        assert all(bool((x == 1).all()) for x in unused)


def test_the_extension_refuses_arrays_that_do_not_fit():
    def make(weights=(4,), moments=(4,), steps=(1,), dtype=np.float32):
        def arrays(sizes):
            return [np.zeros(n, dtype) for n in sizes]

        return C.DenseAdam(
            arrays(weights), arrays(moments), arrays(moments), arrays(steps), 0.9, 0.999, 1e-8
        )

    for wrong in ({"moments": (3,)}, {"moments": ()}, {"steps": ()}, {"steps": (2,)}):
        with pytest.raises(ValueError, match="expected"):
            make(**wrong)
    with pytest.raises(TypeError):
        make(dtype=np.float64)
    with pytest.raises(ValueError, match="gradients: expected as many numbers as of the weights"):
        make().step(0.1, [np.zeros(3, np.float32)])
    with pytest.raises(TypeError):
        make().step(0.1, [np.zeros(8, np.float32)[::2]])
