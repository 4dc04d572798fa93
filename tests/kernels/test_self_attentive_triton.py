"""The Triton extractor against its formula in float64, on the GPU if there is one, else in the
interpreter."""

import pytest
import torch
import triton
import triton.language as tl

from remi_fast.kernels import runtime, self_attentive_launch
from remi_fast.kernels.runtime import DOT_TYPES
from remi_fast.kernels.self_attentive import self_attentive_extractor
from remi_fast.kernels.self_attentive_triton import _tanh
from tests.device import DEVICE
from tests.kernels.errors import with_gradients, within_budget
from tests.kernels.test_capsule_routing import Watched
from tests.kernels.test_ihn_loss import poisoned_memory
from tests.kernels.test_memory_safety import far_apart

# Users, positions, dimensions, hidden units, interests. In tiles of 16 rows: one number of
# everything; three users, the last alone; histories longer than a tile; as many columns as rows.
SHAPES = [
    (1, 1, 1, 1, 1),
    (7, 5, 6, 20, 4),
    (3, 40, 17, 20, 2),
    (3, 3, 4, 16, 16),
    (20, 1, 5, 7, 3),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    shape_triton(monkeypatch)
    with poisoned_memory():
        yield


def shape_triton(monkeypatch):
    """Tiles of 16 rows, 16 hidden units and 16 dimensions; programs that walk several."""
    tiles = self_attentive_launch.Tiles(16, 16, warps=4, chunk=16)
    monkeypatch.setattr(self_attentive_launch, "_lookup", lambda *_: tiles)
    monkeypatch.setattr(self_attentive_launch, "_PROGRAMS", 2)
    monkeypatch.setattr(self_attentive_launch, "_SUMMED", 256)


def make(batch, places, dim, hidden, interests, *, dtype=torch.float64, scale=1.0, seed=0):
    """history, length (of the first user L, of the second 0), positions, w1, w2."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, places, dim), (places, dim), (dim, hidden), (hidden, interests)
    history, *parameters = (
        (scale * torch.randn(s, generator=generator).double()).to(DEVICE, dtype) for s in shapes
    )
    length = torch.randint(1, places + 1, (batch,), generator=generator)
    length[:2] = torch.tensor([places, 0])[:batch]
    return history, length.to(DEVICE), *parameters


def run(problem, backend="triton"):
    """Interests, routing, and the gradients of history, positions, w1 and w2."""
    history, length, *parameters = problem
    return with_gradients(
        lambda h, *p: self_attentive_extractor(h, length, *p, backend=backend),
        (history, *parameters),
    )


def double(problem):
    return tuple(x.double() if x.is_floating_point() else x for x in problem)


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_float64_autograd(shape):
    problem = make(*shape)
    torch.testing.assert_close(run(problem), run(problem, "reference"), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("batch, places, dim", [(4, 20, 64), (1, 70, 33)])
def test_tiles_as_they_are_on_a_gpu(batch, places, dim, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(self_attentive_launch, "_PROGRAMS", 1)  # as many rows as in a large batch
    problem = make(batch, places, dim, 100, 4, dtype=torch.float32, scale=0.2)
    truth = run(double(problem), "reference")
    within_budget(run(problem), run(problem, "reference"), truth)


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_float32_error_budget(shape, scale):
    problem = make(*shape, dtype=torch.float32, scale=scale)
    truth = run(double(problem), "reference")
    within_budget(run(problem), run(problem, "reference"), truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Sums in float32, results and gradients in the inputs' dtype."""
    problem = make(7, 5, 16, 32, 4, dtype=dtype, scale=0.5)
    found = run(problem)
    assert {x.dtype for x in found} == {dtype}
    within_budget(found, run(problem, "reference"), run(double(problem), "reference"))


def test_half_precision_is_rounded_to_nearest():
    """Cut off, numbers would be smaller by 1 / 4 of the last place."""
    problem = make(7, 5, 16, 32, 4, dtype=torch.bfloat16, scale=0.5)
    found, exact = run(problem), run(double(problem), "reference")
    for mine, truth in zip(found, exact, strict=True):
        bias = ((mine.double() - truth) * truth.sign()).mean() / truth.abs().mean()
        assert abs(bias) < torch.finfo(torch.bfloat16).eps / 6


def test_autocast_multiplies_in_its_dtype_and_leaves_that_of_the_history():
    history, length, *parameters = make(3, 4, 16, 32, 2, dtype=torch.float32, scale=0.5)
    exact = self_attentive_extractor(history, length, *parameters, backend="triton")
    with torch.autocast(DEVICE, dtype=torch.float16):
        found = self_attentive_extractor(history, length, *parameters, backend="triton")
        mixed = [parameters[0].half(), *parameters[1:]]
        self_attentive_extractor(history, length, *mixed, backend="triton")
        wide = self_attentive_extractor(
            history.double(), length, *(x.double() for x in parameters), backend="triton"
        )
    for mine, wanted, doubled in zip(found, exact, wide, strict=True):
        assert mine.dtype == torch.float32 and not torch.equal(mine, wanted)
        torch.testing.assert_close(mine, wanted, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(doubled, wanted.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [128, 130])
def test_wide_rows_have_their_gradients_in_float32(dim):
    """Whatever autocast says: half products would spill registers."""
    history, length, *parameters = make(2, 3, dim, 16, 2, dtype=torch.float32, scale=0.5)
    _, routing = self_attentive_extractor(history, length, *parameters, backend="triton")
    upward = torch.ones(2, 2, dim, device=DEVICE)
    half, single = (
        self_attentive_launch.backward(history, length, *parameters, routing, upward, None, dtype)
        for dtype in (torch.float16, torch.float32)
    )
    same = all(torch.equal(a, b) for a, b in zip(half, single, strict=True))
    assert same == (dim > 128)


@pytest.mark.parametrize("places", [3, 17])
def test_gradcheck(places):
    history, length, *parameters = make(2, places, 2, 3, 2)
    length[1] = 2

    def extracted(*x):
        return self_attentive_extractor(x[0], length.int(), *x[1:], backend="triton")

    leaves = [x.requires_grad_() for x in (history, *parameters)]
    assert torch.autograd.gradcheck(
        extracted, leaves, atol=1e-6, rtol=1e-4, nondet_tol=0.0, fast_mode=places > 3
    )


@pytest.mark.parametrize("places", [6, 20])
def test_padding_counts_for_nothing_and_an_empty_history_is_zero(places):
    history, length, *parameters = make(4, places, 5, 12, 3, dtype=torch.float32)
    length[2:] = 2
    padding = torch.arange(places, device=DEVICE) >= length[:, None]
    history[padding] = torch.nan
    interests, routing, grad_history, *others = run((history, length, *parameters))
    assert (interests[1] == 0).all() and (routing[1] == 0).all()
    assert (routing.transpose(1, 2)[padding] == 0).all() and (grad_history[padding] == 0).all()
    assert (grad_history[~padding] != 0).all()
    assert all(x.isfinite().all() for x in (interests, routing, *others))
    history[padding] = 7
    for mine, other in zip(
        run((history, length, *parameters)),
        run((history, length, *parameters), "reference"),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize("places", [9, 40])
def test_peaked_logits(places, direction):
    """Rising or falling over the tiles, far beyond what exp can take in float64."""
    history, length, positions, w1, w2 = make(2, places, 4, 3, 2)
    ramp = direction * torch.linspace(-1, 1, places)
    history, positions = history * 0.1, ramp[:, None].expand(places, 4).to(history).contiguous()
    length[1] = places // 2
    problem = (history, length, positions, w1.abs(), 2000 * w2.abs())
    found, truth = run(problem), run(problem, "reference")
    assert all(x.isfinite().all() for x in found)
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-8)
    assert found[1].max() > 0.999


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_extreme_histories(scale):
    problem = make(3, 6, 4, 8, 2, dtype=torch.float32)
    problem = (problem[0] * scale, *problem[1:])
    truth = run(double(problem), "reference")
    within_budget(run(problem), run(problem, "reference"), truth)


@triton.jit
def _tanh_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index, mask=index < n, other=0.0)
    tl.store(out_ptr + index, _tanh(x), mask=index < n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_is_accurate_everywhere(dtype):
    ends = torch.tensor([0.0, 0.624999, 0.625, 1e30, torch.inf, torch.nan], dtype=torch.float64)
    sizes = torch.logspace(-30, 2, 60_000, dtype=torch.float64)
    x = torch.cat([torch.linspace(0, 12, 60_000, dtype=torch.float64), sizes, ends])
    x = torch.cat([x, -x]).to(DEVICE, dtype)
    found = torch.empty_like(x)
    runtime.launch(_tanh_kernel, (triton.cdiv(len(x), 4096),), x, found, len(x), BLOCK=4096)
    exact = torch.tanh(x.double())
    unit = exact.abs().clamp_min(torch.finfo(dtype).tiny) * torch.finfo(dtype).eps
    known = ~x.isnan()
    assert found[~known].isnan().all()
    assert ((found.double() - exact).abs() / unit)[known].max() < 4


def test_no_users():
    interests, routing, *gradients = run(make(0, 5, 4, 6, 3))
    assert interests.shape == (0, 3, 4) and routing.shape == (0, 3, 5)
    assert gradients[0].shape == (0, 5, 4)
    assert all((x == 0).all() and x.isfinite().all() for x in gradients)


def test_non_contiguous_inputs():
    history, length, *parameters = make(4, 6, 5, 8, 3)
    plain = run((history, length, *parameters))

    def spread(x):
        return torch.stack([x, x], dim=-1)[..., 0]  # elements two apart

    def turned(x):
        return x.transpose(0, 1).contiguous().transpose(0, 1)

    for layout in (spread, turned):
        leaves = [layout(x).requires_grad_() for x in (history, *parameters)]
        results = self_attentive_extractor(leaves[0], spread(length), *leaves[1:], backend="triton")
        assert all(map(torch.equal, results, plain[:2]))
        found = torch.autograd.grad(results, leaves, [layout(x) for x in results])
        dense = [x.detach().contiguous().requires_grad_() for x in leaves]
        again = self_attentive_extractor(dense[0], length, *dense[1:], backend="triton")
        assert all(map(torch.equal, found, torch.autograd.grad(again, dense, again)))


def test_same_bits_every_time():
    problem = make(13, 5, 6, 20, 3, dtype=torch.float32)
    first = run(problem)
    for _ in range(2):
        assert all(map(torch.equal, first, run(problem)))


@pytest.mark.parametrize("dimension", [0, 1])
def test_offsets_past_two_to_the_31(dimension):
    torch.use_deterministic_algorithms(False)  # all that memory would be filled
    history, *others = make(3, 4, 5, 6, 2, dtype=torch.float16)
    plain = run((history, *others))

    def far(history, *parameters):
        history = far_apart(history, dimension)
        return self_attentive_extractor(history, others[0], *parameters, backend="triton")

    with torch.no_grad():
        assert all(map(torch.equal, far(history, *others[1:]), plain[:2]))
    history = far_apart(history, dimension).requires_grad_()
    outputs = self_attentive_extractor(history, *others, backend="triton")
    (found,) = torch.autograd.grad(outputs, history, [torch.ones_like(x) for x in outputs])
    near = history.detach().contiguous().requires_grad_()
    outputs = self_attentive_extractor(near, *others, backend="triton")
    (expected,) = torch.autograd.grad(outputs, near, [torch.ones_like(x) for x in outputs])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("used", [0, 1])
def test_one_of_the_results_is_used(used):
    history, length, *parameters = make(3, 5, 4, 6, 2)
    gradients = []
    for backend in ("triton", "reference"):
        leaves = [x.detach().requires_grad_() for x in (history, *parameters)]
        results = self_attentive_extractor(leaves[0], length, *leaves[1:], backend=backend)
        gradients.append(torch.autograd.grad(results[used].square().sum(), leaves))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_gradient_of_a_subset_of_inputs():
    problem = make(3, 5, 4, 6, 2)
    expected = run(problem)
    history, length, *parameters = problem
    found = with_gradients(
        lambda w1: self_attentive_extractor(
            history, length, parameters[0], w1, parameters[2], backend="triton"
        ),
        [parameters[1]],
    )
    assert torch.equal(found[2], expected[4])


def test_nothing_is_kept_of_the_hidden_layer_and_nothing_waits_for_the_device(monkeypatch):
    batch, places, dim, hidden, interests = 60, 8, 8, 16, 2
    history, length, *parameters = make(batch, places, dim, hidden, interests)
    leaves = [x.requires_grad_() for x in (history, *parameters)]

    def launch(*_, **__):
        pass  # Triton's interpreter does in a launch what a GPU does not

    monkeypatch.setattr(self_attentive_launch, "launch", launch)
    slopes = history.new_ones(batch, interests, dim), history.new_ones(batch, interests, places)
    with Watched() as watched:
        results = self_attentive_extractor(history, length, *parameters, backend="triton")
        torch.autograd.grad(results, leaves, slopes)
    assert watched.largest <= history.numel() < batch * places * hidden


def test_a_small_batch_has_as_many_programs(monkeypatch):
    """Of the tables' tiles as many rows, as long as every multiprocessor has a tile."""
    monkeypatch.undo()
    for batch, programs in ((128, 128), (1024, 264)):
        history = torch.empty(batch, 20, 64, device="meta")
        for tiles in (self_attentive_launch.forward_tiles, self_attentive_launch.backward_tiles):
            rows = tiles(history, 4, torch.bfloat16).rows
            assert rows >= 20 and triton.cdiv(batch, rows // 20) >= programs
    assert self_attentive_launch.forward_tiles(history, 4, torch.bfloat16).rows == 64


def test_second_derivative_is_an_error():
    history, length, *parameters = make(2, 4, 3, 5, 2)
    interests, _ = self_attentive_extractor(
        history.requires_grad_(), length, *parameters, backend="triton"
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(interests.sum(), history, create_graph=True)


@pytest.mark.parametrize("backend", ["auto", "triton", "native", "reference"])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"history": (2, 0, 3)}, r"history: got \(2, 0, 3\)"),
        ({"history": (5, 3)}, r"history: got \(5, 3\)"),
        ({"length": (3,)}, r"length: got shape \(3,\), expected \(2,\)"),
        ({"positions": (5, 4)}, r"positions: got shape \(5, 4\), expected \(5, 3\)"),
        ({"w1": (4, 8)}, r"w1: got shape \(4, 8\), expected \(3, 8\)"),
        ({"w2": (7, 2)}, r"w1: got shape \(3, 8\), expected \(3, 7\)"),
        ({"w2": (8, 0)}, r"w2: got shape \(8, 0\), expected \(h, K\), K > 0"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message, backend):
    shapes = {"history": (2, 5, 3), "length": (2,), "positions": (5, 3), "w1": (3, 8), "w2": (8, 2)}
    tensors = {name: torch.ones(shape) for name, shape in (shapes | change).items()}
    tensors["length"] = tensors["length"].long()
    with pytest.raises(ValueError, match=message):
        self_attentive_extractor(**tensors, backend=backend)


def test_wrong_dtypes_are_errors():
    history, length, positions, w1, w2 = make(2, 4, 3, 5, 2, dtype=torch.float32)
    with pytest.raises(ValueError, match="w1: got dtype torch.float64, expected torch.float32"):
        self_attentive_extractor(history, length, positions, w1.double(), w2)
    with pytest.raises(TypeError, match="w2: got list, expected a tensor"):
        self_attentive_extractor(history, length, positions, w1, [1.0])


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((1, 257, 1, 1, 1), "got 257 positions, at most 256"),
        ((1, 1, 257, 1, 1), "got dimension 257, at most 256"),
        ((1, 1, 1, 1, 17), "got 17 interests, at most 16"),
    ],
)
def test_too_large_for_triton(sizes, message):
    problem = make(*sizes)
    with pytest.raises(ValueError, match=f"triton' cannot: {message}"):
        self_attentive_extractor(*problem, backend="triton")
    self_attentive_extractor(*problem)


def test_products_are_as_exact_as_torch_is_asked_for(monkeypatch):
    seen = []
    monkeypatch.setattr(self_attentive_launch, "launch", lambda *_, **options: seen.append(options))
    before = torch.get_float32_matmul_precision()
    try:
        for asked, dtype in (
            ("highest", torch.float32), ("high", torch.float32), ("high", torch.bfloat16)
        ):  # fmt: skip
            torch.set_float32_matmul_precision(asked)
            self_attentive_extractor(*make(1, 2, 3, 4, 1, dtype=dtype), backend="triton")
    finally:
        torch.set_float32_matmul_precision(before)
    found = [(options["PRECISION"], options["DOT"], options["SUM"]) for options in seen]
    expected = [("tf32x3", torch.float32), ("tf32", torch.float32), ("ieee", torch.bfloat16)]
    assert found == [(name, DOT_TYPES[dtype], tl.float32) for name, dtype in expected]
