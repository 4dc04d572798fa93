"""Selection, table and draws around the IHN loss: Triton and the parts against float64."""

import math

import pytest
import torch

import remi_fast.functional as F
from remi_fast.kernels import reference
from remi_fast.kernels.multi_interest_ihn_loss import multi_interest_ihn_loss_rows
from tests.device import DEVICE
from tests.kernels.errors import with_gradients, within_budget
from tests.kernels.test_ihn_loss import poisoned_memory, shape_triton
from tests.properties import given, settings, st

BACKENDS = ["native", "triton"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    shape_triton(monkeypatch)
    with poisoned_memory():
        yield


def make(batch, interests, dim, items, places, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, interests, dim), (items, dim), (batch, interests, places))
    floats = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
        for shape in shapes
    ]
    floats[2] = floats[2].softmax(dim=2)
    targets = torch.randint(1, items, (batch,), generator=generator).to(DEVICE)
    return floats, targets


def formula(interests, table, routing, targets, negatives, **options):
    query, chosen = reference.select_interest(interests, table[targets])
    loss = reference.ihn_loss(query, table[targets], table[negatives], **options)
    return loss, reference.routing_regularizer(routing, interests.shape[2]), chosen


def agree(backend, floats, targets, negatives, options=None, exact_options=None, **kwargs):
    options = {"beta": 1.0} | (options or {})

    def ours(interests, table, routing):
        loss, chosen, rr = F.multi_interest_ihn_loss(
            interests, targets, table, negatives, routing=routing, backend=backend,
            **options, **kwargs,
        )  # fmt: skip
        assert chosen.dtype == torch.int64
        choices.append(chosen)
        return loss, rr

    def exact(interests, table, routing):
        loss, rr, chosen = formula(
            interests, table, routing, targets, negatives, **options, **(exact_options or {})
        )
        choices.append(chosen)
        return loss, rr

    choices = []
    for mine, true in zip(with_gradients(ours, floats), with_gradients(exact, floats), strict=True):
        torch.testing.assert_close(mine.to_dense(), true, rtol=1e-9, atol=1e-11)
    assert torch.equal(*choices)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "batch, interests, dim, places", [(1, 1, 1, 1), (18, 3, 5, 7), (3, 16, 20, 300), (2, 5, 33, 2)]
)
@pytest.mark.parametrize("sparse", [False, True])
def test_matches_float64_autograd(backend, batch, interests, dim, places, sparse):
    floats, targets = make(batch, interests, dim, 12, places)
    negatives = torch.randint(1, 12, (37,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    agree(backend, floats, targets, negatives, sparse=sparse)  # 37 of 11: duplicates
    agree(backend, floats, targets.int(), negatives.int(), {"beta": 0.37, "detach_weights": True})


@given(
    batch=st.sampled_from([1, 2, 3, 17]),
    interests=st.sampled_from([1, 2, 5, 16]),
    dim=st.integers(1, 33),
    items=st.integers(2, 40),
    places=st.integers(1, 20),
    count=st.integers(1, 40),
    beta=st.sampled_from([0.0, 0.1, 0.37, 1.0]),
    masked=st.booleans(),
    proposal=st.booleans(),
    detach=st.booleans(),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_shape_with_any_options(
    batch, interests, dim, items, places, count, beta, masked, proposal, detach, seed
):
    """Ids repeat, and among them is that of the padding row."""
    floats, targets = make(batch, interests, dim, items, places, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    negatives = torch.randint(0, items, (count,), generator=generator).to(DEVICE)
    options = {"beta": beta, "detach_weights": detach}
    if proposal:
        options["log_q"] = torch.randn(count, generator=generator, dtype=torch.float64).to(DEVICE)
        options["target_log_q"] = torch.randn(batch, generator=generator).to(floats[0])
        options["log_scale"] = math.log(items)
    ids = {"target_ids": targets, "negative_ids": negatives} if masked else None
    agree("triton", floats, targets, negatives, options, ids, mask_hits=masked)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_gradcheck(beta):
    floats, targets = make(1, 2, 2, 3, 2)

    def losses(interests, table, routing):
        return F.multi_interest_ihn_loss(
            interests, targets, table, torch.tensor([0, 2, 2], device=DEVICE), routing=routing,
            beta=beta, backend="triton",
        )[::2]  # fmt: skip

    leaves = [x.requires_grad_() for x in floats]
    assert torch.autograd.gradcheck(losses, leaves, atol=1e-6, rtol=1e-4, nondet_tol=0.0)


def spaced(x, dim):
    """x as a view with as much again between its neighbours in that dimension."""
    return torch.stack([x, torch.full_like(x, math.nan)], dim + 1).select(dim + 1, 0)


LAYOUTS = {
    "rows far apart": lambda x: spaced(x, 0),
    "inner rows far apart": lambda x: spaced(x, x.ndim - 2),
    "columns far apart": lambda x: spaced(x, x.ndim - 1),
    "transposed": lambda x: x.mT.contiguous().mT,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", ["table", "rows", "catalogue"])
def test_non_contiguous_inputs(source, layout):
    floats, targets = make(5, 3, 5, 40, 7)
    negatives = torch.arange(1, 20, device=DEVICE)

    def losses(interests, table, routing, change):
        interests, routing = change(interests), change(routing)
        options = {"beta": 1.0, "routing": routing, "backend": "triton"}
        if source == "table":
            results = F.multi_interest_ihn_loss(
                interests, targets, change(table), negatives, **options
            )
        elif source == "catalogue":
            results = F.full_catalogue_ihn_loss(interests, targets, change(table), **options)
            return results
        else:
            rows = change(table[targets]), change(table[negatives])
            results = multi_interest_ihn_loss_rows(interests, *rows, **options)
        return results[::2]

    plain = with_gradients(lambda *x: losses(*x, lambda y: y), floats)
    strided = with_gradients(lambda *x: losses(*x, LAYOUTS[layout]), floats)
    for one, other in zip(strided, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_chunks_read_nothing_between_rows():
    floats, targets = make(3, 2, 200, 20, 2, dtype=torch.float32)
    negatives = torch.arange(1, 20, device=DEVICE)
    losses = [
        F.multi_interest_ihn_loss(a, targets, b, negatives, beta=1.0, backend="triton")[0]
        for a, b in (floats[:2], [spaced(x, x.ndim - 2) for x in floats[:2]])
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [6, 200])
def test_error_budget(dtype, dim):
    floats, targets = make(9, 4, dim, 30, 20)
    floats[0], floats[1] = floats[0] / dim**0.25, floats[1] / dim**0.25
    floats = [x.to(dtype) for x in floats]
    negatives = torch.arange(1, 30, device=DEVICE)

    def ours(interests, table, routing):
        target, others = table[targets], table[negatives]
        return multi_interest_ihn_loss_rows(
            interests, target, others, routing, beta=1.0, backend="triton"
        )[::2]

    def exact(interests, table, routing):
        return formula(interests, table, routing, targets, negatives, beta=1.0)[:2]

    truth = with_gradients(exact, [x.double() for x in floats])
    mine = with_gradients(ours, floats)
    within_budget(mine, with_gradients(exact, floats), truth)
    assert mine[0].dtype == mine[1].dtype == torch.float32
    torch.testing.assert_close(mine[0].double(), truth[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine[1].double(), truth[1], rtol=1e-5, atol=0)


def test_routing_gradient_is_rounded_to_nearest():
    (interests, table, routing), _ = make(4, 3, 5, 30, 40, dtype=torch.bfloat16)
    weights = routing.detach().requires_grad_()
    rows = table[:4], table[4:]
    multi_interest_ihn_loss_rows(interests, *rows, weights, beta=1.0, backend="triton")[
        2
    ].sum().backward()
    exact = routing.float().requires_grad_()
    reference.routing_regularizer(exact, 5).sum().backward()
    error = (weights.grad.float() - exact.grad).abs()
    assert (error <= exact.grad.abs() * 2**-8 * 1.01).all()


def test_same_bits_every_time():
    floats, targets = make(2, 2, 5, 30, 4, dtype=torch.float32)
    negatives = torch.arange(1, 20, device=DEVICE) % 7

    def losses(interests, table, routing):
        return F.multi_interest_ihn_loss(
            interests, targets, table, negatives, routing=routing, beta=1.0, backend="triton"
        )[::2]

    first = with_gradients(losses, floats)
    for _ in range(50):
        for one, other in zip(first, with_gradients(losses, floats), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hits_are_masked_by_id(backend):
    floats, targets = make(6, 2, 5, 4, 3)
    negatives = torch.arange(1, 4, device=DEVICE).repeat(3)
    ids = {"target_ids": targets, "negative_ids": negatives}
    agree(backend, floats, targets, negatives, exact_options=ids, mask_hits=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_proposal(backend):
    floats, targets = make(6, 2, 5, 40, 3)
    negatives = torch.randint(1, 40, (20,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    options = {
        "log_q": torch.linspace(-9, -1, 20, dtype=torch.float64, device=DEVICE),
        "target_log_q": torch.linspace(-5, -1, 6, dtype=torch.float64, device=DEVICE),
        "log_scale": math.log(39),
    }
    agree(backend, floats, targets, negatives, options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed, step", [(0, 0), (2**64 - 1, 2**32 - 1), (12345, 2**31)])
def test_drawn_negatives_are_those_of_every_backend(backend, seed, step):
    """The same loss and table gradient as with the ids that `sample_negatives` draws."""
    floats, targets = make(5, 2, 5, 1000, 3)
    ids = F.sample_negatives(50, 1000, seed=seed, step=step, backend="reference").to(DEVICE)
    drawn = {"num_negatives": 50, "seed": seed}
    for word in (step, torch.tensor(step, device=DEVICE)):

        def loss(interests, table, routing, word=word):
            return F.multi_interest_ihn_loss(
                interests, targets, table, beta=1.0, backend=backend, step=word,
                routing=routing, **drawn,
            )[::2]  # fmt: skip

        def given(interests, table, routing):
            return formula(interests, table, routing, targets, ids, beta=1.0)[:2]

        for mine, true in zip(
            with_gradients(loss, floats), with_gradients(given, floats), strict=True
        ):
            torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-11)


def test_ties_go_to_the_first_interest_and_nan_is_not_passed_over():
    interests = torch.ones(2, 3, 4, device=DEVICE)
    target, negatives = torch.ones(2, 4, device=DEVICE), torch.zeros(5, 4, device=DEVICE)
    for backend in BACKENDS:
        _, chosen, _ = multi_interest_ihn_loss_rows(
            interests, target, negatives, beta=1.0, backend=backend
        )
        assert chosen.tolist() == [0, 0]
    interests[1, 2, 0] = math.nan
    for backend in BACKENDS:
        loss, chosen, _ = multi_interest_ihn_loss_rows(
            interests, target, negatives, beta=1.0, backend=backend
        )
        assert chosen.tolist() == [0, 2] and loss[0].isfinite() and loss[1].isnan()


@pytest.mark.parametrize("bad", [-1, 40, 2**40])
@pytest.mark.parametrize("where", ["target", "negative"])
def test_ids_outside_the_table(bad, where):
    """Triton cannot raise without waiting for the GPU: the loss is NaN, and nothing is read."""
    (interests, rows, _), targets = make(4, 2, 5, 42, 3)
    table = rows[1:41]
    rows[0], rows[41], interests[2, 1] = 1, 1, interests[2, 0] + 1  # read, they chose interest 1
    targets = targets.clamp(max=39)
    negatives = torch.arange(1, 20, device=DEVICE)
    (targets if where == "target" else negatives)[2] = bad
    loss, chosen = F.multi_interest_ihn_loss(
        interests, targets, table, negatives, beta=1.0, backend="triton"
    )
    assert where == "negative" or chosen[2] == 0
    assert loss.isnan().tolist() == (
        [i == 2 for i in range(4)] if where == "target" else [True] * 4
    )
    if DEVICE == "cpu":
        with pytest.raises(IndexError):
            F.multi_interest_ihn_loss(interests, targets, table, negatives, beta=1.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_gradient_of_a_subset_of_inputs(backend, wanted):
    floats, targets = make(5, 2, 5, 30, 3)
    negatives = torch.arange(1, 12, device=DEVICE)

    def total(leaves):
        loss, _, rr = F.multi_interest_ihn_loss(
            leaves[0], targets, leaves[1], negatives, routing=leaves[2], beta=1.0, backend=backend
        )
        return loss.sum() + 3 * rr.sum()

    every = [x.clone().requires_grad_() for x in floats]
    full = torch.autograd.grad(total(every), every)
    some = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(floats)]
    total(some).backward()
    for i, leaf in enumerate(some):
        if i in wanted:
            torch.testing.assert_close(leaf.grad, full[i])
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("part", ["loss", "rr"])
def test_one_of_the_two_results_is_used(part):
    floats, targets = make(5, 2, 5, 30, 3)
    negatives = torch.arange(1, 12, device=DEVICE)
    grads = []
    for backend in BACKENDS:
        leaves = [x.clone().requires_grad_() for x in floats]
        loss, _, rr = F.multi_interest_ihn_loss(
            leaves[0], targets, leaves[1], negatives, routing=leaves[2], beta=1.0, backend=backend
        )
        (loss if part == "loss" else rr).sum().backward()
        grads.append([torch.zeros_like(x) if x.grad is None else x.grad for x in leaves])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"interests": torch.zeros(3, 4)}, r"interests: got \(3, 4\)"),
        ({"interests": torch.zeros(3, 0, 4)}, r"interests: got \(3, 0, 4\)"),
        ({"item_table": torch.zeros(9)}, r"item_table: got shape \(9,\), expected \(I, 4\)"),
        ({"item_table": torch.zeros(9, 5)}, r"item_table: got shape \(9, 5\)"),
        ({"item_table": torch.zeros(9, 4).double()}, "item_table: got dtype torch.float64"),
        ({"target_ids": torch.zeros(2, dtype=torch.long)}, r"target_ids: got shape \(2,\)"),
        ({"target_ids": torch.zeros(3)}, "target_ids: got .* torch.float32"),
        ({"negative_ids": torch.zeros(5)}, "negative_ids: got .* torch.float32"),
        ({"negative_ids": None}, "give one of the two"),
        ({"num_negatives": 5}, "give one of the two"),
        ({"routing": torch.zeros(3, 4)}, r"routing: got shape \(3, 4\)"),
        ({"routing": torch.zeros(3, 1, 7)}, r"routing: got shape \(3, 1, 7\)"),
        ({"beta": math.inf}, "beta: got inf"),
        ({"log_q": torch.zeros(4)}, r"log_q: got shape \(4,\), expected \(5,\)"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "interests": torch.zeros(3, 2, 4),
        "target_ids": torch.zeros(3, dtype=torch.long),
        "item_table": torch.zeros(9, 4),
        "negative_ids": torch.zeros(5, dtype=torch.long),
        "beta": 1.0,
    } | change
    for backend in ("auto", "triton"):
        with pytest.raises(ValueError, match=message):
            F.multi_interest_ihn_loss(**arguments, backend=backend)
