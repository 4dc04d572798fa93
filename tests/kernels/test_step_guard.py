"""The guard of unwatched steps: what it looks at, what it notes, and that updates then stop."""

import math

import pytest
import torch

from remi_fast.kernels import deferred_adam as adam
from remi_fast.kernels import step_guard_launch as launches
from remi_fast.kernels.deferred_adam_state import AdamState, StepTable
from remi_fast.kernels.step_guard import StepGuard, StepMade, look
from tests.device import DEVICE

ROWS, DIM, BATCH, CAPACITY, WEIGHT = 40, 5, 7, 4, 3.0
BAD = (math.nan, math.inf, -math.inf)
BACKENDS = ("triton", "reference")
IDS = [0, 3, 39, 3, 12, 0, 40, -1, 5, 17, 21]  # padding, twice the same, outside the table


def shape_triton(monkeypatch):
    """Several programs of every kind."""
    monkeypatch.setattr(launches, "_ELEMENTS", 32)


@pytest.fixture(autouse=True)
def few_elements(monkeypatch):
    shape_triton(monkeypatch)


def make(rr=True, dim=DIM):
    """A table's state and what a step made."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(DEVICE)

    stamp = torch.zeros(ROWS, dtype=torch.int32, device=DEVICE)
    state = AdamState(*(normal(ROWS, dim) for _ in range(3)), stamp)
    dense = [normal(1), normal(8, 9), normal(33)]
    ids = torch.tensor(IDS, device=DEVICE)
    made = StepMade(normal(BATCH), normal(BATCH) if rr else None, ids, normal(len(IDS), dim), dense)
    return state, made


def looked(state, made, backend, step=6):
    guard = StepGuard(CAPACITY, torch.device(DEVICE))
    number = torch.tensor([step], device=DEVICE)
    look(guard, number, made, state, rr_weight=WEIGHT, backend=backend)
    return guard


def held(guard):
    flags = guard.found_inf.item(), guard.increment.item()
    assert flags in ((0, 1), (1, 0)), "the two flags say the same"
    return flags == (1, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [1, 5, 33])
@pytest.mark.parametrize("rr", [True, False])
def test_the_losses_of_a_step_are_noted(backend, rr, dim):
    state, made = make(rr, dim)
    guard = looked(state, made, backend)
    assert not held(guard)
    ranking = made.ranking.double().mean().item()
    mean_rr = made.rr.double().mean().item() if rr else 0.0
    expected = [ranking + WEIGHT * mean_rr, ranking, mean_rr]
    found, (losses,) = guard.read(6, 1)
    assert not found and losses == pytest.approx(expected, rel=1e-6)
    assert (guard.losses.count_nonzero(dim=1) > 0).tolist() == [False, False, True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_read_in_order_past_the_end_of_the_ring(backend):
    state, made = make()
    guard = StepGuard(CAPACITY, torch.device(DEVICE))
    for step in range(3, 7):
        made = made._replace(ranking=torch.full((BATCH,), float(step), device=DEVICE))
        number = torch.tensor([step], device=DEVICE)
        look(guard, number, made, state, rr_weight=0.0, backend=backend)
    _, losses = guard.read(3, 4)
    assert [ranking for _, ranking, _ in losses] == [3, 4, 5, 6]


def elements():
    """(name, index) of the first and the last element of all that is looked at."""
    for name, last in (("ranking", BATCH), ("rr", BATCH)):
        yield from ((name, 0), (name, last - 1))
    for place in (1, 4, 10):
        for column in (0, DIM - 1):
            yield from (("gradients", (place, column)), ("exp_avg", (IDS[place], column)))
            yield "exp_avg_sq", (IDS[place], column)
    for number, size in ((0, 1), (1, 72), (2, 33)):
        yield from ((f"dense {number}", 0), (f"dense {number}", size - 1))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_of_it_is_looked_at(backend, bad):
    for name, index in elements():
        state, made = make()
        if name.startswith("dense"):
            made.dense[int(name[-1])].view(-1)[index] = bad
        else:
            getattr(state if name.startswith("exp") else made, name)[index] = bad
        assert held(looked(state, made, backend)), (name, index)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_other_rows_and_ids_outside_do_not_matter(backend):
    state, made = make()
    for place in (0, 5, 6, 7):
        made.gradients[place] = torch.nan
    for row in (0, 1, 38):
        state.exp_avg[row] = state.exp_avg_sq[row] = torch.inf
    state.weight[3] = torch.nan  # shows in what is made of it
    assert not held(looked(state, made, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_numbers_are_finite(backend):
    state, made = make()
    largest = torch.finfo(torch.float32).max
    for tensor in (made.gradients, state.exp_avg, *made.dense):
        tensor.copy_(largest * tensor.sign())
    assert not held(looked(state, made, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_held_guard_stays_held(backend):
    state, made = make()
    guard = looked(state, made, backend)
    guard.hold(True)
    look(guard, torch.tensor([7], device=DEVICE), made, state, rr_weight=WEIGHT, backend=backend)
    assert held(guard) and guard.read(6, 1)[0]
    guard.hold(False)
    assert not held(guard)


def test_strided_tensors_are_looked_at_as_they_are():
    state, made = make()
    wide = torch.full((len(IDS), 2 * DIM), torch.nan, device=DEVICE)
    wide[:, ::2] = made.gradients
    columns = torch.full((8, 18), torch.nan, device=DEVICE)
    columns[:, ::2] = made.dense[1]
    made = made._replace(gradients=wide[:, ::2], dense=[columns[:, ::2]])
    assert not held(looked(state, made, "triton"))
    wide[4, 2] = torch.inf
    assert held(looked(state, made, "triton"))


@pytest.mark.parametrize("backend", ["triton", "reference", "native"])
@pytest.mark.parametrize("found", [False, True])
def test_an_update_is_made_unless_something_was_found(found, backend):
    if backend == "native" and DEVICE != "cpu":
        pytest.skip("native is for the CPU")
    results = []
    for flag in (None, torch.full((1,), float(found), device=DEVICE)):
        state, made = make()
        steps = StepTable(0.9, 0.999, 1e-8)
        steps.advance(1e-2)
        state.exp_avg_sq.abs_()
        before = [x.clone() for x in (state.weight, state.exp_avg, state.exp_avg_sq, state.stamp)]
        ids = torch.tensor([0, 3, 39, 3], device=DEVICE)
        rows = adam.GatheredRows(ids, ROWS)
        adam.update(state, steps, rows, made.gradients[:4], found_inf=flag, backend=backend)
        after = [state.weight, state.exp_avg, state.exp_avg_sq, state.stamp]
        results.append([torch.equal(a, b) for a, b in zip(after, before, strict=True)])
    assert results == [[False] * 4, [found] * 4]


def test_what_does_not_fit():
    state, made = make()
    with pytest.raises(ValueError, match=r"gradients: got shape \(11, 4\), expected \(11, 5\)"):
        looked(state, made._replace(gradients=made.gradients[:, :4]), "triton")
