"""Dynamic routing against the formula, element by element, and its gradients in float64.

Triton runs on the GPU if there is one, else in its interpreter. Numbers of gradients cannot be
checked by differences of the results, because the formula stops gradients: they are checked against
other formulas, and by differences where there is one position, whose routing is 1.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from remi_fast.kernels import capsule_routing_launch, reference
from remi_fast.kernels.capsule_routing import capsule_routing
from remi_fast.kernels.native import C
from tests.device import DEVICE
from tests.kernels.errors import with_gradients, within_budget
from tests.kernels.test_ihn_loss import poisoned_memory

BACKENDS = ["native", "triton", "reference"]
FAST = ["native", "triton"]
MATRICES = ["shared", "own"]  # MIND, ComiRec-DR
each_matrix = pytest.mark.parametrize("matrix", MATRICES)
each_gradient = pytest.mark.parametrize("through_routing", [False, True])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    shape_triton(monkeypatch)
    with poisoned_memory():
        yield


def shape_triton(monkeypatch):
    """Tiles of 8 positions and 8 numbers up to 16 dimensions; votes of few users at a time."""
    monkeypatch.setattr(capsule_routing_launch, "_BLOCK_ELEMENTS", 128)
    monkeypatch.setattr(capsule_routing_launch, "TILE_ELEMENTS", 200)


def make(batch, interests, positions, dim, matrix, *, dtype=torch.float64, scale=1.0, seed=0):
    """history, length (the first user's is L), weight, logits; votes about as long as `scale`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (dim, dim) if matrix == "shared" else (positions, interests * dim, dim)
    history = scale * torch.randn(batch, positions, dim, generator=generator).double()
    weight = torch.randn(shape, generator=generator).double() / dim**0.5
    length = torch.randint(1, positions + 1, (batch,), generator=generator)
    length[:1] = positions
    logits = torch.randn(batch, interests, positions, generator=generator)
    return (
        history.to(DEVICE, dtype), length.to(DEVICE), weight.to(DEVICE, dtype),
        logits.to(DEVICE, dtype),
    )  # fmt: skip


def run(problem, backend, through_routing=True):
    """Interests, routing, and the gradients of history and weight."""
    history, length, weight, logits = problem

    def routed(history, weight):
        results = capsule_routing(
            history, length, weight, logits, through_routing=through_routing, backend=backend
        )
        return results if through_routing else results[:1]

    return with_gradients(routed, (history, weight))


def double(problem):
    return tuple(x.double() if x.is_floating_point() else x for x in problem)


def one_by_one(history, length, weight, logits):
    """The published loop in NumPy, a user and an interest at a time."""
    history, weight, logits = (x.cpu().numpy() for x in (history, weight, logits))
    batch, positions, dim = history.shape
    interests = np.zeros((batch, logits.shape[1], dim))
    routing = np.zeros((batch, logits.shape[1], positions))
    for b in range(batch):
        n = int(length[b])
        for k in range(logits.shape[1]):
            matrices = [
                weight if weight.ndim == 2 else weight[place, k * dim : (k + 1) * dim]
                for place in range(n)
            ]
            votes = np.array([w @ h for w, h in zip(matrices, history[b], strict=False)])
            z = logits[b if len(logits) > 1 else 0, k].copy()
            for _ in range(3):
                c = np.exp(z - z.max())
                c /= c.sum()
                c[n:] = 0
                s = c[:n] @ votes
                v = s * np.sqrt(s @ s) / (1 + s @ s)
                z[:n] += votes @ v
            interests[b, k], routing[b, k] = v, c
    return interests, routing


@pytest.mark.parametrize("backend", BACKENDS)
@each_matrix
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 9, 5), (1, 16, 2, 3)])
def test_matches_the_published_loop(shape, matrix, backend):
    *problem, logits = make(*shape, matrix)
    for given in (logits, logits[:1])[: len(logits)]:
        found = capsule_routing(*problem, given, through_routing=False, backend=backend)
        for mine, expected in zip(found, one_by_one(*problem, given), strict=True):
            np.testing.assert_allclose(mine.cpu().numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@each_matrix
def test_as_published_the_routing_is_constant(matrix, backend):
    history, length, weight, logits = make(3, 2, 5, 4, matrix)
    leaves = history.requires_grad_(), weight.requires_grad_()
    interests, routing = capsule_routing(
        history, length, weight, logits, through_routing=False, backend=backend
    )
    assert not routing.requires_grad
    direction = torch.randn(interests.shape, generator=torch.Generator().manual_seed(1))
    direction = direction.to(interests)
    found = torch.autograd.grad((interests * direction).sum(), leaves)
    votes = reference.capsule_votes(history, weight)
    mixed = (routing[..., None] * votes).sum(dim=2)
    squashed = mixed * mixed.norm(dim=2, keepdim=True)
    squashed = squashed / (1 + mixed.square().sum(dim=2, keepdim=True))
    expected = torch.autograd.grad((squashed * direction).sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
@each_gradient
@each_matrix
@pytest.mark.parametrize("shape", [(3, 2, 9, 5), (1, 1, 19, 17)])
def test_matches_float64_autograd(shape, matrix, through_routing, backend):
    problem = make(*shape, matrix)
    found, truth = (run(problem, name, through_routing) for name in (backend, "reference"))
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


@each_matrix
def test_blocks_as_they_are_on_a_gpu(matrix, monkeypatch):
    monkeypatch.undo()
    for shape in ((1, 2, 20, 64), (1, 1, 17, 256)):
        problem = make(*shape, matrix)
        found, truth = (run(problem, name) for name in ("triton", "reference"))
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rr_reaches_the_votes_through_the_last_update(backend):
    history, length, _, logits = make(3, 2, 6, 4, "shared")
    length[:] = 6
    identity = torch.eye(4).to(history)

    def last_update(x):
        """Only what the extension lets the gradient through: the first update is constant."""
        middle = logits + (history[:, None] * _squashed(logits, history)[:, :, None]).sum(dim=3)
        moved = middle + (x[:, None] * _squashed(middle, x)[:, :, None]).sum(dim=3)
        return reference.routing_regularizer(torch.softmax(moved, dim=2), 4).sum()

    leaf = history.clone().requires_grad_()
    _, routing = capsule_routing(
        leaf, length, identity, logits, through_routing=True, backend=backend
    )
    reference.routing_regularizer(routing, 4).sum().backward()
    other = history.clone().requires_grad_()
    last_update(other).backward()
    assert leaf.grad.abs().max() > 0
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-9, atol=1e-13)


def _squashed(logits, votes):
    mixed = torch.softmax(logits, dim=2) @ votes
    square = mixed.square().sum(dim=2, keepdim=True)
    return mixed * square.sqrt() / (1 + square)


@pytest.mark.parametrize("backend", FAST)
@each_matrix
def test_gradcheck_of_one_position(matrix, backend):
    history, length, weight, logits = make(1, 2, 1, 2, matrix)

    def routed(*x):
        return capsule_routing(
            x[0], length.int(), x[1], logits, through_routing=False, backend=backend
        )[0]

    leaves = history.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(routed, leaves, atol=1e-6, rtol=1e-4, nondet_tol=0.0)


@pytest.mark.parametrize("backend", BACKENDS)
@each_gradient
@each_matrix
def test_padding_counts_for_nothing_and_an_empty_history_is_zero(matrix, through_routing, backend):
    history, length, weight, logits = make(3, 1, 6, 5, matrix, dtype=torch.float32)
    length[1], length[2] = 0, 2
    history[1], history[2, 2:] = torch.nan, torch.inf
    leaves = history.requires_grad_(), weight.requires_grad_()
    interests, routing = capsule_routing(
        history, length, weight, logits, through_routing=through_routing, backend=backend
    )
    assert (interests[1] == 0).all() and (routing[1] == 0).all()
    assert interests.isfinite().all() and (routing[2, :, 2:] == 0).all()
    total = interests.sum() + (routing.sum() if through_routing else 0)
    gradients = torch.autograd.grad(total, leaves)
    assert all(x.isfinite().all() for x in gradients)
    assert (gradients[0][1] == 0).all() and (gradients[0][2, 2:] == 0).all()
    assert (gradients[0][2, :2] != 0).all()


@pytest.mark.parametrize("scale", [0.1, 0.3])
@each_matrix
def test_float32_error_budget_of_triton(matrix, scale, monkeypatch):
    """Longer votes are left out: iterated, the softmax of large logits blows up whichever rounding
    comes first, in all alike."""
    monkeypatch.undo()  # the blocks that training uses
    problem = make(5, 2, 20, 16, matrix, dtype=torch.float32, scale=scale)
    truth = run(double(problem), "reference")
    within_budget(run(problem, "triton"), run(problem, "reference"), truth)


@each_gradient
@each_matrix
@pytest.mark.parametrize("shape", [(128, 2, 9, 5), (64, 16, 4, 33)])
def test_float32_error_budget_of_native_code(shape, matrix, through_routing):
    problem = make(*shape, matrix, dtype=torch.float32, scale=0.3)
    truth = run(double(problem), "reference", through_routing)
    found, eager = (run(problem, name, through_routing) for name in ("native", "reference"))
    within_budget(found, eager, truth)


@each_matrix
def test_native_code_gives_the_same_bits_for_any_number_of_threads(matrix):
    problem = make(23, 3, 9, 5, matrix, dtype=torch.float32)
    before, results = C.num_threads(), []
    try:
        for threads in (1, 2, 5):
            C.set_num_threads(threads)
            results.append(run(problem, "native"))
    finally:
        C.set_num_threads(before)
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


def test_native_code_refuses_other_dtypes_and_shapes():
    votes = np.zeros((2, 3, 5, 4), np.float32)
    others = np.zeros(2, np.int64), np.zeros((2, 3, 5), np.float32), votes[:, :, 0].copy()
    routing = np.zeros((2, 3, 5), np.float32)
    C.capsule_routing(votes, *others, routing)
    with pytest.raises(TypeError):
        C.capsule_routing(votes.astype(np.float64), *others, routing)
    for wrong in (votes[:, :2], votes[..., :3], votes[0], np.zeros((2, 3, 5, 8), "f")[..., ::2]):
        with pytest.raises(ValueError, match="votes: expected"):
            C.capsule_routing(wrong, *others, routing)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_matrix
def test_half_precision(matrix, dtype):
    """Sums in float32, results and gradients in the inputs' dtype and rounded to nearest."""
    problem = make(3, 2, 8, 16, matrix, dtype=dtype)
    found = run(problem, "triton")
    assert {x.dtype for x in found} == {dtype}
    within_budget(found, run(problem, "reference"), run(double(problem), "reference"))
    if matrix == "shared":
        exact = run(double(problem), "reference")[0]
        bias = ((found[0].double() - exact) * exact.sign()).mean() / exact.abs().mean()
        assert abs(bias) < torch.finfo(dtype).eps / 8  # cut off, they would be smaller by 1 / 4


@each_matrix
def test_autocast_leaves_the_dtype_of_the_history(matrix):
    history, length, weight, logits = make(2, 1, 4, 5, matrix, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        problem = history.to(dtype), length, weight.to(dtype), logits
        mixed = history.to(dtype), length, weight.float(), logits.float()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            plain = capsule_routing(*problem, through_routing=False, backend="triton")
            found = capsule_routing(*mixed, through_routing=False, backend="triton")
        assert {x.dtype for x in found} == {dtype} and all(map(torch.equal, found, plain))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("direction", [-1, 1])
@each_matrix
def test_extreme_logits(matrix, direction, backend):
    """Rising or falling over the tiles; all weight on one position, or on padding."""
    history, length, weight, logits = make(2, 1, 9, 4, matrix)
    length[1] = 5
    logits = (direction * torch.linspace(-1e4, 1e4, 9)).to(logits).expand(1, 1, 9)
    problem = (history, length, weight, logits)
    found, truth = (run(problem, name) for name in (backend, "reference"))
    assert all(x.isfinite().all() for x in found)
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
@each_matrix
def test_extreme_histories(matrix, scale, backend):
    """Squares of their length leave the range of float32 from below and nearly from above."""
    problem = make(1, 1, 6, 4, matrix, dtype=torch.float32, scale=scale)
    interests, routing, *gradients = run(problem, backend)
    assert all(x.isfinite().all() for x in (interests, routing, *gradients))
    expected = run(double(problem), "reference")[0].norm(dim=2)
    torch.testing.assert_close(interests.double().norm(dim=2), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@each_matrix
def test_no_users(matrix, backend):
    interests, routing, *gradients = run(make(0, 2, 5, 4, matrix), backend)
    assert interests.shape == (0, 2, 4) and routing.shape == (0, 2, 5)
    assert gradients[0].shape == (0, 5, 4) and gradients[1].abs().sum() == 0


@pytest.mark.parametrize("backend", FAST)
@each_matrix
def test_non_contiguous_inputs(matrix, backend):
    history, length, weight, logits = problem = make(2, 1, 6, 5, matrix, dtype=torch.float32)
    plain = run(problem, backend)

    def spread(x):
        return torch.stack([x, x], dim=-1)[..., 0]  # elements two apart

    def turned(x):
        return x.transpose(0, 1).contiguous().transpose(0, 1)

    for layout in (spread, turned):
        strided = [layout(x).requires_grad_() for x in (history, weight)]
        results = capsule_routing(
            strided[0], spread(length), strided[1], layout(logits), through_routing=True,
            backend=backend,
        )  # fmt: skip
        torch.testing.assert_close(results, plain[:2])
        slopes = [turned(torch.ones_like(x)) for x in results]
        gradients = torch.autograd.grad(results, strided, slopes)
        dense = [x.detach().requires_grad_() for x in (history, weight)]
        again = capsule_routing(
            dense[0], length, dense[1], logits, through_routing=True, backend=backend
        )
        expected = torch.autograd.grad(again, dense, [torch.ones_like(x) for x in again])
        torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("backend", FAST)
@each_matrix
def test_same_bits_every_time(matrix, backend):
    problem = make(2, 1, 9, 5, matrix, dtype=torch.float32)
    first = run(problem, backend)
    for _ in range(2):
        assert all(map(torch.equal, first, run(problem, backend)))


# Allocations, views, and kernels whose output sizes follow from the sizes of their inputs.
WITHOUT_WAITING = {
    f"aten.{name}" for name in (
        "add_.Tensor", "arange.default", "bmm.default", "copy_.default", "detach.default",
        "empty.memory_format", "empty_like.default", "expand.default", "ge.Tensor",
        "masked_fill.Scalar", "mm.default", "new_empty.default",
        "permute.default", "select.int", "slice.Tensor", "transpose.int", "unsqueeze.default",
        "view.default", "zeros.default", "zeros_like.default", "_unsafe_view.default",
    )
}  # fmt: skip


class Watched(TorchDispatchMode):
    """Stops at an operator that is not known to run without waiting; keeps the largest result."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert str(func) in WITHOUT_WAITING, f"{func} is not known to run without waiting"
        out = func(*args, **(kwargs or {}))
        storage = out.untyped_storage().nbytes() // out.element_size()
        self.largest = max(self.largest, storage)
        return out


@each_gradient
@each_matrix
def test_votes_are_not_kept_and_nothing_waits_for_the_device(matrix, through_routing, monkeypatch):
    batch, interests, positions, dim = 40, 4, 8, 8
    history, length, weight, logits = make(batch, interests, positions, dim, matrix)
    leaves = history.requires_grad_(), weight.requires_grad_()
    slope = history.new_ones(batch, interests, dim)

    def launch(*_, **__):
        pass  # Triton's interpreter does in a launch what a GPU does not

    monkeypatch.setattr(capsule_routing_launch, "launch", launch)
    with Watched() as watched:
        results = capsule_routing(
            history, length, weight, logits, through_routing=through_routing, backend="triton"
        )
        torch.autograd.grad(results[0], leaves, slope)
    terms = (3 if through_routing else 1) * batch * interests * dim
    expected = max(terms, history.numel(), weight.numel())
    assert watched.largest <= expected < batch * interests * positions * dim


@pytest.mark.parametrize("backend", FAST)
def test_gradient_of_a_subset_of_inputs(backend):
    problem = make(2, 1, 4, 3, "own")
    expected = run(problem, backend, through_routing=False)
    for wanted in (0, 2):
        leaves = [x.detach() for x in problem]
        leaves[wanted].requires_grad_()
        interests, _ = capsule_routing(*leaves, through_routing=False, backend=backend)
        weights = torch.randn(
            interests.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        (interests * weights.to(DEVICE)).sum().backward()
        torch.testing.assert_close(leaves[wanted].grad, expected[1 + wanted // 2])
        assert leaves[2 - wanted].grad is None


@pytest.mark.skipif(DEVICE == "cuda", reason="native is PyTorch there, which has one")
def test_second_derivative_is_an_error_in_cpp():
    _second_derivative("native")


def test_second_derivative_is_an_error_in_triton():
    _second_derivative("triton")


def _second_derivative(backend):
    history, length, weight, logits = make(2, 2, 4, 3, "shared", dtype=torch.float32)
    interests, _ = capsule_routing(
        history.requires_grad_(), length, weight, logits, through_routing=True, backend=backend
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(interests.sum(), history, create_graph=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"history": (2, 0, 3)}, r"history: got \(2, 0, 3\)"),
        ({"weight": (4, 6, 3)}, r"weight: got shape \(4, 6, 3\), expected \(5, 6, 3\)"),
        ({"weight": (3, 4)}, r"weight: got shape \(3, 4\), expected \(3, 3\)"),
        ({"logits": (3, 2, 5)}, r"logits: got shape \(3, 2, 5\), expected \(2, 2, 5\)"),
        ({"logits": (2, 0, 5)}, r"logits: got shape \(2, 0, 5\), expected \(B or 1, K, L\), K > 0"),
        ({"length": (3,)}, r"length: got shape \(3,\), expected \(2,\)"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message):
    shapes = {"history": (2, 5, 3), "length": (2,), "weight": (3, 3), "logits": (2, 2, 5)} | change
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    tensors["length"] = tensors["length"].long()
    with pytest.raises(ValueError, match=message):
        capsule_routing(**tensors, through_routing=False)


def test_too_many_dimensions_for_triton():
    problem = make(1, 1, 1, 257, "shared")
    with pytest.raises(ValueError, match="triton' cannot: got dimension 257, at most 256"):
        capsule_routing(*problem, through_routing=False, backend="triton")
    capsule_routing(*problem, through_routing=False)
