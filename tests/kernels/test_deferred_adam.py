"""Deferred Adam against dense Adam: torch.optim.Adam in float64 on the same stream of gradients."""

import math

import pytest
import torch

from remi_fast.kernels import deferred_adam as kernel

ROWS, DIM = 200, 12


def constant(step):
    return 1e-3


def warm_up_and_cosine(step):
    return 1e-3 * min(1.0, step / 300) * (0.55 + 0.45 * math.cos(step / 500))


def ids_and_gradients(steps, *, rows=ROWS, scale=4.0):
    """A stream with long-tailed ids: repeated ones in a step, some rarely, some never touched."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        ids = (torch.rand(6, generator=generator) ** 4 * (rows - 10)).long()
        ids[1] = ids[0]
        size = 10 ** (torch.rand(1, generator=generator, dtype=torch.float64) * scale - scale)
        yield ids, torch.randn(6, DIM, generator=generator, dtype=torch.float64) * size


def initial(rows=ROWS):
    weight = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight[0] = 0
    return weight


def dense_adam(steps, lr, dtype, **stream):
    weight = torch.nn.Parameter(initial().to(dtype))
    optimizer = torch.optim.Adam([weight], foreach=False)
    for step, (ids, gradients) in enumerate(ids_and_gradients(steps, **stream), start=1):
        weight.grad = torch.zeros_like(weight).index_add_(0, ids, gradients.to(dtype))
        weight.grad[0] = 0
        optimizer.param_groups[0]["lr"] = lr(step)
        optimizer.step()
    return weight.detach()


def fresh(dtype):
    weight = initial().to(dtype)
    zeros = torch.zeros_like(weight)
    state = kernel.AdamState(weight, zeros, zeros.clone(), torch.zeros(ROWS, dtype=torch.int32))
    return state, kernel.StepTable(0.9, 0.999, 1e-8)


def deferred_adam(steps, lr, dtype, backend, **stream):
    state, table = fresh(dtype)
    for step, (ids, gradients) in enumerate(ids_and_gradients(steps, **stream), start=1):
        rows = kernel.GatheredRows(ids, ROWS)
        kernel.gather(state, table, rows, backend=backend)
        table.advance(lr(step))
        kernel.update(state, table, rows, gradients.to(dtype), backend=backend)
    return state, table


@pytest.mark.parametrize("lr", [constant, warm_up_and_cosine])
def test_native_errs_no_more_than_torch_float32(lr):
    steps = 4000
    truth = dense_adam(steps, lr, torch.float64)
    theirs = dense_adam(steps, lr, torch.float32)
    state, table = deferred_adam(steps, lr, torch.float32, "native")
    assert int((steps - state.stamp[state.stamp > 0]).max()) > 500, "the stream has no long gaps"
    kernel.flush(state, table)
    untouched = state.stamp == 0
    assert untouched.sum() > 5 and torch.equal(state.weight[untouched], theirs[untouched])
    assert (state.stamp[~untouched] == steps).all()
    assert (truth - initial()).abs().max() > 0.05, "hardly anything moved"
    assert (state.weight - truth).abs().max() <= (theirs - truth).abs().max()
    assert (state.weight - truth).abs().mean() <= (theirs - truth).abs().mean()


@pytest.mark.parametrize("lr", [constant, warm_up_and_cosine])
def test_reference_is_dense_adam(lr):
    steps = 500
    state, table = deferred_adam(steps, lr, torch.float64, "reference")
    kernel.flush(state, table, backend="reference")
    truth = dense_adam(steps, lr, torch.float64)
    torch.testing.assert_close(state.weight, truth, rtol=0, atol=1e-13)


def test_native_agrees_with_the_replay_to_a_millionth_of_the_movement():
    steps = 700
    replayed, table = deferred_adam(steps, constant, torch.float64, "reference")
    kernel.flush(replayed, table, backend="reference")
    native, table = deferred_adam(steps, constant, torch.float32, "native")
    kernel.flush(native, table)
    moved = (replayed.weight - initial()).abs().max()
    # plus what rounding the weights themselves to float32 costs over the updates of one row
    rounding = 30 * torch.finfo(torch.float32).eps * initial().abs().max()
    assert (native.weight - replayed.weight).abs().max() <= 1e-6 * moved + rounding


@pytest.mark.parametrize("tau", [1, 2, 3, 5, 10, 30, 99, 299, 300, 301, 1000])
@pytest.mark.parametrize("gap", [1, 2, 9, 40, 160, 161, 1023, 1024, 3000])
def test_series_of_missed_steps(tau, gap):
    """Weights start at 0, so the movement itself is seen in full float32 precision."""
    generator = torch.Generator().manual_seed(tau)
    exp_avg = torch.randn(5, 16, generator=generator)
    exp_avg_sq = 10 ** (torch.rand(5, 16, generator=generator) * 18 - 18)
    stamp = torch.full((5,), tau, dtype=torch.int32)
    state = kernel.AdamState(torch.zeros(5, 16), exp_avg, exp_avg_sq, stamp)
    table = kernel.StepTable(0.9, 0.999, 1e-8)
    for _ in range(tau + gap):
        table.advance(1e-3)
    doubled = (x.double() for x in (state.weight, exp_avg, exp_avg_sq))
    exact = kernel.AdamState(*doubled, stamp.clone())
    ids = torch.tensor([1, 2, 3, 4])
    read = kernel.read(state, table, ids)
    exact_read = kernel.read(exact, table, ids, backend="reference")
    torch.testing.assert_close(read.double(), exact_read, rtol=1e-6, atol=1e-30)
    kernel.flush(state, table)
    kernel.flush(exact, table, backend="reference")
    assert torch.equal(state.weight[1:], read)
    for mine, true in ((state.exp_avg, exact.exp_avg), (state.exp_avg_sq, exact.exp_avg_sq)):
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-29)


def test_reading_changes_nothing():
    state, table = deferred_adam(300, constant, torch.float32, "native")
    before = [t.clone() for t in (state.weight, state.exp_avg, state.exp_avg_sq, state.stamp)]
    first = kernel.read(state, table, torch.arange(ROWS))
    second = kernel.read(state, table, torch.arange(ROWS))
    after = (state.weight, state.exp_avg, state.exp_avg_sq, state.stamp)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(first, second)
    kernel.flush(state, table)
    assert torch.equal(state.weight, first)


def test_gather_gives_each_occurrence_its_row_and_brings_it_up_to_date():
    state, table = deferred_adam(300, constant, torch.float32, "native")
    ids = torch.tensor([3, 0, 3, 150, 7, 3, 199, 0])
    expected = kernel.read(state, table, ids)
    rows = kernel.gather(state, table, kernel.GatheredRows(ids, ROWS))
    assert torch.equal(rows, expected)
    assert (rows[1] == 0).all() and (rows[7] == 0).all()
    touched = state.stamp[[3, 7]]
    assert (touched == 300).all() and state.stamp[199] == 0


def test_padding_row_is_frozen():
    state, table = fresh(torch.float32)
    rows = kernel.GatheredRows(torch.tensor([0, 0, 1]), ROWS)
    kernel.gather(state, table, rows)
    table.advance(1e-3)
    kernel.update(state, table, rows, torch.ones(3, DIM))
    assert (state.weight[0] == 0).all() and (state.exp_avg[0] == 0).all() and state.stamp[0] == 0
    assert state.stamp[1] == 1


@pytest.mark.parametrize(
    "ids", [[], [5], [5] * 40, list(range(40)), list(range(40))[::-1], [1, 199, 1, 0, 199, 2]]
)
def test_duplicates_are_summed_in_order_of_occurrence(ids):
    ids = torch.tensor(ids, dtype=torch.int64)
    gradients = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(0))
    results = []
    for backend in ("native", "reference"):
        state, table = fresh(torch.float32)
        rows = kernel.GatheredRows(ids, ROWS)
        kernel.gather(state, table, rows, backend=backend)
        table.advance(1e-2)
        kernel.update(state, table, rows, gradients, backend=backend)
        results.append(state)
    native, reference = results
    torch.testing.assert_close(native.weight, reference.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(native.exp_avg, reference.exp_avg, rtol=1e-6, atol=1e-9)
    assert torch.equal(native.stamp, reference.stamp)


def test_same_bits_for_any_number_of_threads():
    from remi_fast.kernels.native import C

    results = []
    before = C.num_threads()
    for threads in (1, 2, 7):
        C.set_num_threads(threads)
        state, table = deferred_adam(400, constant, torch.float32, "native")
        kernel.flush(state, table)
        results.append(state)
    C.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other.weight, results[0].weight)
        assert torch.equal(other.exp_avg_sq, results[0].exp_avg_sq)


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-45, 1e15])
def test_extreme_gradients_stay_finite(value):
    state, table = fresh(torch.float32)
    rows = kernel.GatheredRows(torch.tensor([4, 5]), ROWS)
    for _ in range(3):
        kernel.gather(state, table, rows)
        table.advance(1e-3)
        kernel.update(state, table, rows, torch.full((2, DIM), value))
    for _ in range(5000):
        table.advance(1e-3)
    kernel.flush(state, table)
    assert torch.isfinite(state.weight).all()
    tiny = torch.finfo(torch.float32).tiny
    for moment in (state.exp_avg, state.exp_avg_sq):
        assert ((moment == 0) | (moment.abs() >= tiny)).all(), "a denormal was left"


@pytest.mark.parametrize("bad", [[1, -1], [200], [2**40]])
def test_ids_outside_the_table(bad):
    with pytest.raises(IndexError, match=r"ids\[\d\] = .*expected 0 <= id < 200"):
        kernel.GatheredRows(torch.tensor(bad), ROWS)
    state, table = fresh(torch.float32)
    with pytest.raises(IndexError, match="expected 0 <= id < 200"):
        kernel.read(state, table, torch.tensor(bad))


def test_ids_must_be_integers():
    with pytest.raises(TypeError, match=r"ids: got torch.float32, expected int32 or int64"):
        kernel.GatheredRows(torch.zeros(3), ROWS)


def test_step_table_keeps_schedules_as_runs():
    table = kernel.StepTable(0.9, 0.999, 1e-8)
    for lr in [1e-3] * 3 + [5e-4] * 2 + [1e-3]:
        table.advance(lr)
    assert table.runs == [(1, 1e-3), (4, 5e-4), (6, 1e-3)]
    again = kernel.StepTable(0.9, 0.999, 1e-8)
    again.restore(table.step, table.runs)
    assert again.lrs == table.lrs and again.runs == table.runs
    assert (again.step_size[:7] == table.step_size[:7]).all()
