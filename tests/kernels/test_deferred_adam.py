"""Deferred Adam against dense Adam: torch.optim.Adam in float64 on the same stream of gradients.

What the native and the Triton backend have in common; Triton runs on the GPU if there is one, else
in its interpreter, which is slow: shorter streams.
"""

import math
from functools import cache

import pytest
import torch

from remi_fast.config import OptimConfig
from remi_fast.kernels import deferred_adam as kernel
from remi_fast.kernels import deferred_adam_launch as launches
from remi_fast.kernels.memory import table_zeros
from remi_fast.kernels.native import C
from tests.device import DEVICE

ROWS, DIM = 200, 12
BACKENDS = ["native", "triton"]
STEPS = {"native": 2000, "triton": 120}
BETAS = [(0.99, 0.999), (0.9, 0.99), (0.95, 0.98), (0.5, 0.9), (0.5, 0.1), (0.0, 0.999)]


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    shape_triton(monkeypatch)


def shape_triton(monkeypatch, elements=128, terms=2048, chunk=4):
    """Blocks of fewer rows than there are, chunks of fewer ids than a row has."""
    monkeypatch.setattr(launches, "_ELEMENTS", elements)
    monkeypatch.setattr(launches, "_TERMS", terms)
    monkeypatch.setattr(launches, "_CHUNK", chunk)


def constant(step):
    return 1e-3


def warm_up_and_cosine(step):
    return 1e-3 * min(1.0, step / 300) * (0.55 + 0.45 * math.cos(step / 500))


def warm_up_and_down_to_0(step):
    optim = OptimConfig(lr=1e-3, schedule="linear", warmup_steps=30)
    return optim.lr_at(step - 1, STEPS["native"])


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


def dense_adam(steps, lr, dtype):
    weight = torch.nn.Parameter(initial().to(dtype))
    optimizer = torch.optim.Adam([weight], foreach=False)
    for step, (ids, gradients) in enumerate(ids_and_gradients(steps), start=1):
        weight.grad = torch.zeros_like(weight).index_add_(0, ids, gradients.to(dtype))
        weight.grad[0] = 0
        optimizer.param_groups[0]["lr"] = lr(step)
        optimizer.step()
    return weight.detach()


def where(backend):
    return DEVICE if backend == "triton" else "cpu"


def fresh(dtype, backend="native"):
    weight = initial().to(where(backend), dtype)
    stamp = torch.zeros(ROWS, dtype=torch.int32, device=weight.device)
    state = kernel.AdamState(weight, torch.zeros_like(weight), torch.zeros_like(weight), stamp)
    return state, kernel.StepTable(0.9, 0.999, 1e-8)


def copies(state):
    return [x.clone() for x in (state.weight, state.exp_avg, state.exp_avg_sq, state.stamp)]


def step(state, table, ids, gradients, lr, backend):
    """Gather and update; what was gathered."""
    rows = kernel.GatheredRows(ids.to(state.weight.device), len(state.weight))
    gathered = kernel.gather(state, table, rows, backend=backend)
    table.advance(lr)
    kernel.update(state, table, rows, gradients.to(state.weight), backend=backend)
    return gathered


@cache
def trained(steps, lr, dtype, backend):
    state, table = fresh(dtype, backend)
    for number, (ids, gradients) in enumerate(ids_and_gradients(steps), start=1):
        step(state, table, ids, gradients, lr(number), backend)
    return state, table


def deferred_adam(steps, lr, dtype, backend):
    state, table = trained(steps, lr, dtype, backend)
    return kernel.AdamState(*copies(state)), table


def beside_moments(state):
    """The same with each row's moments behind it."""
    weight, exp_avg, exp_avg_sq, stamp = copies(state)
    apart = torch.stack([weight, exp_avg, exp_avg_sq], dim=1).unbind(1)
    assert apart[0].stride() == (3 * weight.shape[1], 1)
    return kernel.AdamState(*apart, stamp)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_rows_with_their_moments_behind_them_have_the_same_bits(backend):
    state, _ = deferred_adam(40, constant, torch.float32, backend)
    other = beside_moments(state)
    table, other_table = fresh(torch.float32)[1], fresh(torch.float32)[1]
    for each in (table, other_table):
        each.restore(40, [(1, 1e-3)])
    ids = torch.arange(ROWS, device=state.weight.device)
    for number, (some, gradients) in enumerate(ids_and_gradients(6), start=41):
        mine, theirs = (
            step(*each, some, gradients, constant(number), backend)
            for each in ((state, table), (other, other_table))
        )
        assert torch.equal(mine, theirs)
    mine = kernel.read(state, table, ids, backend=backend)
    assert torch.equal(mine, kernel.read(other, other_table, ids, backend=backend))
    kernel.flush(state, table, backend=backend)
    kernel.flush(other, other_table, backend=backend)
    for mine, theirs in zip(copies(state), copies(other), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("beside", [False, True])
def test_large_tables_have_the_bits_of_small_ones(beside):
    """Pages that no row is on are never there."""
    rows, dim, some = 750_000, 64, 300
    cpu = torch.device("cpu")
    if beside:
        large = table_zeros(rows, 3, dim, dtype=torch.float32, device=cpu).unbind(1)
    else:
        large = [table_zeros(rows, dim, dtype=torch.float32, device=cpu) for _ in range(3)]
    ids = torch.arange(1, rows, rows // some)[:some]
    small = [torch.rand(some + 1, dim, generator=torch.Generator().manual_seed(1)) for _ in large]
    for part, values in zip(large, small, strict=True):
        part[ids] = values[1:]
    stamps = [torch.zeros(n, dtype=torch.int32) for n in (rows, some + 1)]
    stamps[0][ids] = stamps[1][1:] = torch.arange(some, dtype=torch.int32) % 90
    results = []
    for tensors, stamp, places in zip(
        (large, small), stamps, (ids, torch.arange(1, some + 1)), strict=True
    ):
        state, table = kernel.AdamState(*tensors, stamp), kernel.StepTable(0.9, 0.999, 1e-8)
        for _ in range(90):
            table.advance(1e-3)
        gathered = step(state, table, places, torch.ones(some, dim), 1e-3, "native")
        results.append([gathered, state.weight[places], state.exp_avg[places], stamp[places]])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("lr", [constant, warm_up_and_cosine, warm_up_and_down_to_0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_errs_no_more_than_torch_float32(backend, lr):
    steps = STEPS[backend]
    truth = dense_adam(steps, lr, torch.float64)
    theirs = dense_adam(steps, lr, torch.float32)
    state, table = deferred_adam(steps, lr, torch.float32, backend)
    longest = int((steps - state.stamp[state.stamp > 0]).max())
    assert longest > min(500, steps / 2), "the stream has no long gaps"
    kernel.flush(state, table, backend=backend)
    weight, stamp = state.weight.cpu(), state.stamp.cpu()
    untouched = stamp == 0
    assert untouched.sum() > 5 and torch.equal(weight[untouched], theirs[untouched])
    assert (stamp[~untouched] == steps).all()
    assert (truth - initial()).abs().max() > 1e-5 * steps, "hardly anything moved"
    assert (weight - truth).abs().max() <= (theirs - truth).abs().max()
    assert (weight - truth).abs().mean() <= (theirs - truth).abs().mean()


@pytest.mark.parametrize("lr", [constant, warm_up_and_cosine])
def test_reference_is_dense_adam(lr):
    steps = 500
    state, table = deferred_adam(steps, lr, torch.float64, "reference")
    kernel.flush(state, table, backend="reference")
    truth = dense_adam(steps, lr, torch.float64)
    torch.testing.assert_close(state.weight, truth, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_the_replay_to_a_millionth_of_the_movement(backend):
    steps = min(700, STEPS[backend])
    replayed, table = deferred_adam(steps, constant, torch.float64, "reference")
    kernel.flush(replayed, table, backend="reference")
    state, table = deferred_adam(steps, constant, torch.float32, backend)
    kernel.flush(state, table, backend=backend)
    moved = (replayed.weight - initial()).abs().max()
    # plus what rounding the weights themselves to float32 costs over the updates of one row
    rounding = 30 * torch.finfo(torch.float32).eps * initial().abs().max()
    assert (state.weight.cpu() - replayed.weight).abs().max() <= 1e-6 * moved + rounding


def late_rows(tau, gap, betas, backend):
    """Rows that have missed steps, beside the same in float64. Weights start at 0, so that the
    movement itself is seen in full float32 precision."""
    generator = torch.Generator().manual_seed(tau)
    exp_avg = torch.randn(5, 16, generator=generator)
    exp_avg_sq = 10 ** (torch.rand(5, 16, generator=generator) * 18 - 18)
    stamp = torch.full((5,), tau, dtype=torch.int32)
    table = kernel.StepTable(*betas, 1e-8)
    for number in range(tau + gap):
        table.advance(constant(number))
    tensors = (torch.zeros(5, 16), exp_avg, exp_avg_sq, stamp)
    state = kernel.AdamState(*(x.to(where(backend), copy=True) for x in tensors))
    exact = kernel.AdamState(*(x.double() for x in tensors[:3]), stamp)
    return state, exact, table


def check_missed_steps(tau, gap, betas, backend):
    state, exact, table = late_rows(tau, gap, betas, backend)
    ids = torch.tensor([1, 2, 3, 4])
    read = kernel.read(state, table, ids.to(where(backend)), backend=backend)
    exact_read = kernel.read(exact, table, ids, backend="reference")
    torch.testing.assert_close(read.cpu().double(), exact_read, rtol=1e-6, atol=1e-30)
    kernel.flush(state, table, backend=backend)
    kernel.flush(exact, table, backend="reference")
    assert torch.equal(state.weight[1:], read)
    # Row 0 is padding: it never gets a stamp.
    for mine, true in ((state.exp_avg, exact.exp_avg), (state.exp_avg_sq, exact.exp_avg_sq)):
        mine, true = mine[1:].cpu().double(), true[1:]
        torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-29)


def test_what_is_kept_between_steps_is_made_anew_for_other_steps():
    """Rows of many stamps, read at every step; then the same table with other learning rates."""
    state, exact, table = late_rows(400, 0, (0.9, 0.999), "native")
    ids = torch.tensor([1, 2, 3, 4])
    for stamp in (state.stamp, exact.stamp):
        stamp.copy_(torch.tensor([0, 301, 320, 399, 400]))
    for number in range(800):
        table.advance(1e-3 + 1e-6 * number)
        kernel.read(state, table, ids)
    for lr in (None, 3e-2):
        if lr is not None:
            table.restore(1150, [(1, lr), (350, 2 * lr)])
        expected = kernel.read(exact, table, ids, backend="reference")
        read = kernel.read(state, table, ids, backend="native")
        torch.testing.assert_close(read.double(), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("tau", [1, 2, 3, 5, 10, 30, 99, 299, 300, 301, 1000])
@pytest.mark.parametrize("gap", [1, 2, 9, 40, 159, 160, 1023, 1024, 3000])
def test_series_of_missed_steps(tau, gap):
    check_missed_steps(tau, gap, (0.9, 0.999), "native")


@pytest.mark.parametrize("tau, gap", [(1, 1), (1, 40), (5, 160), (99, 2), (300, 159), (1000, 3000)])
def test_series_of_missed_steps_in_triton(tau, gap):
    check_missed_steps(tau, gap, (0.9, 0.999), "triton")


@pytest.mark.parametrize("tau, gap", [(1, 200), (100, 1), (301, 2000)])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_series_of_missed_steps_for_any_betas(backend, betas, tau, gap):
    check_missed_steps(tau, gap, betas, backend)


@pytest.mark.parametrize("tau, gap", [(5, 700), (301, 2000)])
@pytest.mark.parametrize("betas", [(0.9, 0.5), (0.9, 0.05), (0.5, 0.25)])
@pytest.mark.parametrize("backend", ["native", "triton"])
def test_powers_of_a_small_beta2_may_underflow(backend, betas, tau, gap):
    state, exact, table = late_rows(tau, gap, betas, backend)
    ids = torch.tensor([1, 2, 3, 4])
    expected = kernel.read(exact, table, ids, backend="reference")
    read = kernel.read(state, table, ids.to(state.weight.device), backend=backend)
    torch.testing.assert_close(read.cpu().double(), expected, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("gap", [1, 2, 10, 10_000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_touched_again(backend, gap):
    """Catch-up and step, of rows whose weights start at 0, after a gap."""
    state, exact, table = late_rows(50, gap, (0.9, 0.999), backend)
    ids = torch.tensor([3, 1, 3])
    gradients = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) / 100
    gathered = step(state, table, ids, gradients, 1e-3, backend)
    table.step -= 1
    exact_rows = step(exact, table, ids, gradients, 1e-3, "reference")
    torch.testing.assert_close(gathered.cpu().double(), exact_rows, rtol=1e-6, atol=1e-30)
    assert state.stamp.tolist() == [50, 51 + gap, 50, 51 + gap, 50]
    mine, true = state.weight.cpu().double()[1:], exact.weight[1:]
    torch.testing.assert_close(mine, true, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_changes_nothing(backend):
    state, table = deferred_adam(120, constant, torch.float32, backend)
    before = copies(state)
    everything = torch.arange(ROWS, device=state.weight.device)
    first = kernel.read(state, table, everything, backend=backend)
    second = kernel.read(state, table, everything, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(before, copies(state), strict=True))
    assert torch.equal(first, second)
    kernel.flush(state, table, backend=backend)
    assert torch.equal(state.weight, first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gather_gives_each_occurrence_its_row_and_brings_it_up_to_date(backend):
    state, table = deferred_adam(120, constant, torch.float32, backend)
    ids = torch.tensor([3, 0, 3, 150, 7, 3, 199, 0], device=state.weight.device)
    expected = kernel.read(state, table, ids, backend=backend)
    before = copies(state)
    rows = kernel.gather(state, table, kernel.GatheredRows(ids, ROWS), backend=backend)
    assert torch.equal(rows, expected)
    assert (rows[1] == 0).all() and (rows[7] == 0).all()
    assert (state.stamp[[3, 7]] == 120).all() and state.stamp[199] == 0
    others = torch.ones(ROWS, dtype=torch.bool, device=ids.device)
    others[ids] = False
    for one, other in zip(before, copies(state), strict=True):
        assert torch.equal(one[others], other[others])


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_row_is_frozen(backend):
    state, table = fresh(torch.float32, backend)
    step(state, table, torch.tensor([0, 0, 1]), torch.ones(3, DIM), 1e-3, backend)
    assert (state.weight[0] == 0).all() and (state.exp_avg[0] == 0).all() and state.stamp[0] == 0
    assert state.stamp[1] == 1


def zipf(count):
    frequencies = 1 / torch.arange(1, ROWS) ** 1.05
    generator = torch.Generator().manual_seed(1)
    return (1 + frequencies.multinomial(count, replacement=True, generator=generator)).tolist()


IDS = {
    "none": [],
    "one": [5],
    "all equal": [5] * 40,
    "sorted": list(range(40)),
    "reversed": list(range(40))[::-1],
    "repeated": [1, 199, 1, 0, 199, 2],
    "padding": [0] * 7,
    "zipf": zipf(90),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_a_row_are_summed(backend, ids):
    ids = torch.tensor(ids, dtype=torch.int64)
    gradients = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(0))
    state, table = fresh(torch.float32, backend)
    gathered = step(state, table, ids, gradients, 1e-2, backend)
    exact, table = fresh(torch.float64)
    assert torch.equal(gathered.cpu(), exact.weight[ids].float())
    step(exact, table, ids, gradients, 1e-2, "reference")
    for mine, true in zip(copies(state)[:3], copies(exact)[:3], strict=True):
        torch.testing.assert_close(mine.cpu().double(), true, rtol=1e-6, atol=1e-7)
    assert torch.equal(state.stamp.cpu(), exact.stamp)


@pytest.mark.parametrize("bit", [10, 11, 12, 21, 22])
def test_ids_of_large_tables_are_grouped(bit):
    """As those of a small table, whose ids the sort tells apart by one of its digits."""
    ids = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(bit))
    ids = ids % 2 + (ids // 2 << bit)
    gradients = torch.randn(len(ids), 1, generator=torch.Generator().manual_seed(0))
    distinct, places = ids.unique(return_inverse=True)
    moved = []
    for these, rows in ((ids, (2 << bit) + 1), (places, 4)):
        tensors = torch.zeros(3, rows, 1)
        state = kernel.AdamState(*tensors, torch.zeros(rows, dtype=torch.int32))
        step(state, kernel.StepTable(0.9, 0.999, 1e-8), these, gradients, 1e-2, "native")
        moved.append(tensors[:, these.unique()])
    assert len(distinct) == 4 and torch.equal(*moved) and (moved[0][:, 1:] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_may_have_any_strides(backend):
    ids = torch.tensor([4, 2, 4])
    results, columns = [], torch.arange(3.0 * DIM).view(DIM, 3).T
    for gradients in (columns, columns.contiguous()):
        state, table = fresh(torch.float32, backend)
        step(state, table, ids, gradients, 1e-2, backend)
        results.append(copies(state))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_gradients_are_one_an_occurrence(backend):
    state, table = fresh(torch.float32, backend)
    rows = kernel.GatheredRows(torch.tensor([4, 2], device=state.weight.device), ROWS)
    with pytest.raises(ValueError, match=r"gradients: got shape \(3, 12\), expected \(2, 12\)"):
        kernel.update(state, table, rows, torch.ones(3, DIM), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_learning_rate_of_zero(backend):
    state, table = fresh(torch.float32, backend)
    ids, gradients = torch.tensor([4, 2]), torch.ones(2, DIM)
    step(state, table, ids, gradients, 1e-2, backend)
    before = copies(state)
    for _ in range(70):
        table.advance(0.0)
    kernel.flush(state, table, backend=backend)
    assert torch.equal(state.weight, before[0]) and (state.stamp[[2, 4]] == 71).all()
    assert (state.exp_avg[2] < before[1][2] / 1000).all()


def test_same_bits_for_any_number_of_threads():

    results = []
    before = C.num_threads()
    for threads in (1, 2, 7):
        C.set_num_threads(threads)
        state, table = trained.__wrapped__(400, constant, torch.float32, "native")
        kernel.flush(state, table)
        results.append(state)
    C.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other.weight, results[0].weight)
        assert torch.equal(other.exp_avg_sq, results[0].exp_avg_sq)


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-45, 1e-18, 1e15, 1e25])
@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_gradients_stay_finite(backend, value):
    """The square of the largest is infinite: Adam does not move then, and neither do late rows."""
    state, table = fresh(torch.float32, backend)
    for _ in range(3):
        step(state, table, torch.tensor([4, 5]), torch.full((2, DIM), value), 1e-3, backend)
    for _ in range(5000):
        table.advance(1e-3)
    kernel.flush(state, table, backend=backend)
    assert torch.isfinite(state.weight).all()
    if value in (0.0, 1e25):
        assert torch.equal(state.weight.cpu(), initial().float())
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
    assert table.rates == [(1, 1e-3), (4, 5e-4), (6, 1e-3)]
    again = kernel.StepTable(0.9, 0.999, 1e-8)
    again.restore(table.step, table.rates)
    assert again.lrs == table.lrs and again.rates == table.rates
    assert (again.step_size[:7] == table.step_size[:7]).all()


def test_step_table_of_the_usual_betas():
    table = kernel.StepTable(0.9, 0.999, 1e-8)
    assert (table.horizon, table.settled) == (159, 301)  # 1 - 0.9 is a little less than 0.1
    assert table.longest_segment >= table.horizon, "one series where one will do"
