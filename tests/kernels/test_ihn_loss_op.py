"""The Triton loss as PyTorch operators: opcheck, torch.compile, autocast, second derivatives."""

from itertools import combinations

import pytest
import torch

import remi_fast.functional as F
from remi_fast import REMILoss
from remi_fast.kernels import ihn_loss_launch, ihn_loss_op, reference
from tests.device import DEVICE
from tests.kernels.errors import with_gradients, within_budget
from tests.kernels.test_ihn_loss import shape_triton

B, K, D, ITEMS, N, L = 3, 2, 5, 25, 20, 4


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    shape_triton(monkeypatch)


def make(batch=B, negatives=N, dtype=torch.float32, seed=0):
    """interests, target_ids, table, negative_ids, routing; all floats need gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, K, D), (ITEMS, D), (batch, K, L))
    interests, table, routing = (
        torch.randn(s, generator=generator).to(DEVICE, dtype).requires_grad_() for s in shapes
    )
    target_ids = torch.randint(1, ITEMS, (batch,), generator=generator).to(DEVICE)
    negative_ids = torch.randint(1, ITEMS, (negatives,), generator=generator).to(DEVICE)
    return interests, target_ids, table, negative_ids, routing


def total(interests, target_ids, table, negative_ids, routing, **options):
    options = {"beta": 1.0, "backend": "triton"} | options
    loss, _, rr = F.multi_interest_ihn_loss(
        interests, target_ids, table, negative_ids, routing=routing, **options
    )
    return loss.mean() + 3 * rr.mean()


def against_catalogue(interests, target_ids, table, _, routing):
    loss, _, rr = F.full_catalogue_ihn_loss(
        interests, target_ids, table, beta=0.37, routing=routing, backend="triton"
    )
    return loss.mean() + 3 * rr.mean()


def of_rows(interests, target_ids, table, negative_ids, routing):
    query, target = interests[:, 0] * routing.mean(), table[target_ids]
    return F.ihn_loss(query, target, table[negative_ids], beta=1.0, backend="triton").mean()


def gradients(function, inputs, *args, **kwargs):
    """The result and its gradients."""
    result = function(*inputs, *args, **kwargs)
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    return (result, *torch.autograd.grad(result, leaves))


def operands(source, *, routed=True, masked=False, proposal=False, drawn=False, device_step=False):
    """Positional and keyword arguments of remi_fast::ihn_loss."""
    interests, target_ids, table, negative_ids, routing = make()
    rows = source == "rows"
    target, negatives = (table[:B], table[-N:]) if rows else (table, table)
    given = masked if rows else source == "table" and not drawn
    args = (
        interests,
        target.detach().requires_grad_(),
        negatives.detach().requires_grad_(),
        routing if routed else None,
        target_ids if masked or not rows else None,
        negative_ids if given else None,
        torch.linspace(0.1, 1, N, device=DEVICE) if proposal else None,
        torch.linspace(-3, -1, B, device=DEVICE) if proposal else None,
        torch.tensor(3, device=DEVICE) if device_step else None,
    )
    kwargs = {
        "beta": 1.0,
        "log_scale": 1.5,
        "dtype": torch.float32,
        "source": source,
        "num_negatives": ITEMS - 1 if source == "catalogue" else N,
        "mask": masked,
        "with_slope": True,
        "seed": -5,
        "step": 7,
    }
    return args, kwargs


def backward_operands(args, kwargs):
    """Those of remi_fast::ihn_loss_backward after that forward."""
    args = [x if x is None else x.detach() for x in args[:7]]
    loss, chosen, rr, drawn, row_stats, slope = ihn_loss_op._ihn_loss(*args, None, None, **kwargs)
    if kwargs["source"] == "table" and args[5] is None:
        args[5] = drawn
    routed = args[3] is not None
    args += [chosen, row_stats, slope, torch.ones_like(loss), torch.ones_like(rr)]
    kwargs = {name: x for name, x in kwargs.items() if name not in ("with_slope", "seed", "step")}
    wanted = [True, kwargs["source"] != "catalogue", True, routed]
    return args if routed else (*args[:-1], None), kwargs | {
        "detach_weights": False,
        "wanted": wanted,
    }


OPERANDS = {
    "rows": {"source": "rows", "routed": False},
    "masked rows, proposal": {"source": "rows", "masked": True, "proposal": True},
    "table, masked, proposal": {"source": "table", "masked": True, "proposal": True},
    "drawn": {"source": "table", "drawn": True, "routed": False},
    "drawn by the device's step": {"source": "table", "drawn": True, "device_step": True},
    "catalogue": {"source": "catalogue", "masked": True},
}


@pytest.mark.parametrize("case", OPERANDS)
def test_opcheck(case):
    args, kwargs = operands(**OPERANDS[case])
    torch.library.opcheck(ihn_loss_op._ihn_loss, args, kwargs)
    args, kwargs = backward_operands(args, kwargs)
    torch.library.opcheck(
        ihn_loss_op._ihn_loss_backward, args, kwargs, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("function", [total, against_catalogue, of_rows])
def test_compiled_without_a_graph_break(function):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for one, other in zip(gradients(compiled, make()), gradients(function, make()), strict=True):
        assert torch.equal(one, other)


def test_compiled_module_takes_any_batch_and_step():
    """Two graphs for each kind of step, with the sizes that came first and with any others."""
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph

    loss = REMILoss(num_negatives=N, backend="triton")
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=counting)
    for batch in (3, 2, 5, 4):
        inputs = make(batch)
        inputs = (*inputs[:3], None, inputs[4])
        for step in (batch, torch.tensor(batch, device=DEVICE)):
            for one, other in zip(
                gradients(compiled, inputs, step=step),
                gradients(loss, inputs, step=step),
                strict=True,
            ):
                assert torch.equal(one, other)
    assert len(graphs) <= 4


def test_compiled_by_inductor():
    loss = REMILoss(backend="triton")
    compiled = torch.compile(loss, fullgraph=True)
    for one, other in zip(gradients(compiled, make()), gradients(loss, make()), strict=True):
        torch.testing.assert_close(one, other)


def test_autocast():
    """The fused loss multiplies in bfloat16, and errs no more than twice what eager code does."""
    interests, target_ids, table, negative_ids, _ = make(batch=9)
    inputs = (interests[:, 0].detach(), table.detach())  # one interest: none chosen differently

    def ours(query, table):
        with torch.autocast(DEVICE, torch.bfloat16):
            loss, _ = F.multi_interest_ihn_loss(
                query.unsqueeze(1), target_ids, table, negative_ids, beta=1.0, backend="triton"
            )
        assert loss.dtype == torch.float32
        return (loss,)

    def formula(query, table):
        loss = reference.ihn_loss(query, table[target_ids], table[negative_ids], beta=1.0)
        return (loss,)

    def eager(*inputs):
        with torch.autocast(DEVICE, torch.bfloat16):
            return formula(*inputs)

    truth = with_gradients(formula, [x.double() for x in inputs])
    within_budget(with_gradients(ours, inputs), with_gradients(eager, inputs), truth)


def test_autocast_takes_mixed_dtypes_and_gives_gradients_in_them():
    interests, *others = make()
    half = interests.detach().bfloat16().requires_grad_()
    leaves = [half, others[1], others[3]]
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = total(half, *others)
    assert loss.dtype == torch.float32
    found = torch.autograd.grad(loss, leaves)
    for leaf, gradient in zip(leaves, found, strict=True):
        assert gradient.dtype == leaf.dtype and gradient.shape == leaf.shape
    assert not torch.equal(found[1], found[1].bfloat16()), "rounded on the way"


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_other_backends_stay_in_float32_under_autocast(backend):
    def under_autocast(*inputs):
        with torch.autocast(DEVICE, torch.bfloat16):
            return total(*inputs, backend=backend)

    plain = gradients(total, make(), backend=backend)
    for one, other in zip(gradients(under_autocast, make()), plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("function", [total, against_catalogue, of_rows])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, None])
def test_loss_without_gradients(function, mode):
    """None of the inputs needs a gradient, or gradients are off: the same loss."""
    inputs = make()
    expected = function(*inputs)
    assert expected.requires_grad
    if mode is None:
        loss = function(*(x.detach() for x in inputs))
    else:
        with mode():
            loss = function(*inputs)
    assert not loss.requires_grad and torch.equal(loss, expected.detach())


@pytest.mark.parametrize("function", [total, against_catalogue, of_rows])
def test_gradients_of_any_subset_of_inputs(function):
    inputs = make()
    places = (0, 2, 4)  # interests, table, routing
    full = dict(zip(places, gradients(function, inputs)[1:], strict=True))
    for subset in (s for n in (1, 2) for s in combinations(places, n)):
        some = [x.detach() for x in inputs]
        leaves = [some[i].requires_grad_() for i in subset]
        found = torch.autograd.grad(function(*some), leaves)
        assert all(torch.equal(g, full[i]) for i, g in zip(subset, found, strict=True))


@pytest.mark.parametrize("function", [total, against_catalogue])
def test_same_bits_every_time(function):
    first = gradients(function, make())
    for _ in range(50 if DEVICE == "cuda" else 5):  # the interpreter has no races to lose
        assert all(map(torch.equal, first, gradients(function, make())))


@pytest.mark.parametrize("wanted", [True, False])
def test_dtype_and_sums_that_the_kernels_are_asked_for(monkeypatch, wanted):
    """Autocast's dtype, though the interpreter does not round to it; slopes only if wanted."""
    asked = []
    original = ihn_loss_launch.outputs
    monkeypatch.setattr(
        ihn_loss_launch, "outputs", lambda *args: asked.append(args[-2:]) or original(*args)
    )
    with torch.set_grad_enabled(wanted):
        total(*make())
        with torch.autocast(DEVICE, torch.bfloat16):
            total(*make())
    assert asked == [(torch.float32, wanted), (torch.bfloat16, wanted)]


@pytest.mark.parametrize("function", [total, against_catalogue, of_rows])
def test_second_derivatives_are_refused(function):
    inputs = make()
    leaves = [inputs[0], inputs[2], inputs[4]]
    first = torch.autograd.grad(function(*inputs), leaves, create_graph=True)
    for gradient in first[:2]:
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(gradient.square().sum(), leaves, retain_graph=True)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_ids_outside_the_table_stay_inside_it(sparse):
    """The loss is NaN, and so is the gradient; nothing is written or indexed out of bounds."""
    interests, target_ids, table, negative_ids, routing = make()
    target_ids[1], negative_ids[2], negative_ids[3] = -7, ITEMS, 2**40
    loss = total(interests, target_ids, table, negative_ids, routing, sparse=sparse)
    (gradient,) = torch.autograd.grad(loss, table)
    if sparse:
        assert gradient._indices().min() >= 0 and gradient._indices().max() < ITEMS
    assert loss.isnan() and gradient.to_dense().isnan().any()


def test_routing_over_no_places():
    interests, target_ids, table, negative_ids, routing = make()
    inputs = (interests, target_ids, table, negative_ids)
    plain, _ = F.multi_interest_ihn_loss(*inputs, beta=1.0, backend="triton")
    loss, *_, gradient = gradients(total, (*inputs, routing.detach()[:, :, :0].requires_grad_()))
    assert torch.equal(loss, plain.mean()) and gradient.shape == (B, K, 0)


def test_strided_ids_and_log_q():
    """Vectors are often columns of a batch's matrix."""
    interests, target_ids, table, negative_ids, routing = make()
    log_q, target_log_q = torch.linspace(-3, -1, N), torch.linspace(-2, -1, B)
    vectors = [x.to(DEVICE) for x in (target_ids, negative_ids, log_q, target_log_q)]
    strided = [torch.stack([x, x + 1], dim=1)[:, 0] for x in vectors]
    results = []
    for targets, negatives, log_q, target_log_q in (vectors, strided):
        inputs = (interests, targets, table, negatives, routing)
        options = {"log_q": log_q, "target_log_q": target_log_q, "mask_hits": True}
        results.append(gradients(total, inputs, **options))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    log_q = torch.zeros(0, device=DEVICE)  # of no negatives
    assert total(interests, target_ids, table, negative_ids[:0], routing, log_q=log_q).isfinite()
