"""Deferred Adam in Triton: blocks and chunks, ids outside the table, memory, device steps, graphs.

What it has in common with the native backend is in test_deferred_adam.py.
"""

import mmap
import resource

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from remi_fast.kernels import deferred_adam as kernel
from remi_fast.kernels import deferred_adam_launch as launches
from remi_fast.kernels.deferred_adam_state import MAX_STEPS, DeviceSteps
from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam
from tests.device import DEVICE
from tests.kernels.test_deferred_adam import copies, late_rows, shape_triton, step, where, zipf
from tests.kernels.test_ihn_loss import poisoned_memory
from tests.kernels.test_no_synchronisation import ALLOWED, OnlyAllowed

ROWS, DIM = 9, 5
MAP_NORESERVE = 0x4000  # Linux; Python has the name from 3.13 on
FAR = 2**31 + 64  # elements: more than an int32 can count


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    shape_triton(monkeypatch)


def fresh(rows=ROWS, dim=DIM):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(rows, dim, generator=generator).to(DEVICE)
    weight[0] = 0
    stamp = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    state = kernel.AdamState(weight, torch.zeros_like(weight), torch.zeros_like(weight), stamp)
    return state, kernel.StepTable(0.9, 0.999, 1e-8)


def stream(steps, dim=DIM, count=7):
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        ids = torch.randint(0, ROWS, (count,), generator=generator)
        yield ids.to(DEVICE), torch.randn(count, dim, generator=generator).to(DEVICE)


def trained(steps=6, dim=DIM, count=7):
    state, table = fresh(dim=dim)
    for ids, gradients in stream(steps, dim, count):
        step(state, table, ids, gradients, 1e-2, "triton")
    return state, table


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


HOT = [4] * 70 + [1] * 17 + [7] * 3  # runs over many chunks, that begin anywhere in a chunk
UPDATES = {
    "hot": HOT,
    "hot and others": [5] * 9 + [1, 2, 3],  # in one chunk
    "in turns": [4, 1, 7] * 25,
    "zipf": zipf(60),
    "one": [6],
    "padding": [0] * 9,
}


@pytest.mark.parametrize(
    "dim, elements, chunk",
    [(1, 128, 4), (5, 16, 2), (5, 128, 4), (16, 128, 4), (33, 128, 4), (33, 512, 32)],
)
@pytest.mark.parametrize("ids", UPDATES.values(), ids=UPDATES)
def test_sums_over_chunks(monkeypatch, ids, dim, elements, chunk):
    shape_triton(monkeypatch, elements, chunk=chunk)
    ids = torch.tensor(ids, device=DEVICE)
    gradients = torch.randn(len(ids), dim, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    state, table = fresh(200, dim)
    step(state, table, ids, gradients, 1e-2, "triton")
    sums = torch.zeros(200, dim, dtype=torch.float64, device=DEVICE)
    sums = sums.index_add_(0, ids, gradients.double())
    sums[0] = 0
    torch.testing.assert_close(state.exp_avg.double(), 0.1 * sums, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(state.exp_avg_sq.double(), 1e-3 * sums**2, rtol=1e-5, atol=1e-8)
    assert torch.equal(state.stamp > 0, (sums != 0).any(dim=1))


def test_long_rows_have_shorter_chunks(monkeypatch):
    """And the same sums, whatever a program works on."""
    shape_triton(monkeypatch, elements=512, chunk=32)
    monkeypatch.setattr(launches, "_CHUNK_ELEMENTS", 64)
    state, table = trained(2, dim=33)
    shape_triton(monkeypatch, elements=64, chunk=1)
    assert same(copies(state), copies(trained(2, dim=33)[0]))


@pytest.mark.parametrize("tau, gap", [(1, 30), (400, 159), (400, 9)])
def test_missed_steps_are_added_up_a_few_at_a_time(monkeypatch, tau, gap):
    shape_triton(monkeypatch, terms=64)  # 4 rows of 16: blocks of 16 missed steps
    state, exact, table = late_rows(tau, gap, (0.9, 0.999), "triton")
    exact = kernel.read(exact, table, torch.arange(5), backend="reference")
    read = launches.read(state, table, torch.arange(5, device=DEVICE))
    torch.testing.assert_close(read.cpu().double(), exact, rtol=1e-6, atol=1e-30)


def test_the_same_bits_twice_and_for_any_number_of_rows_a_program(monkeypatch):
    first = copies(trained()[0])
    assert same(first, copies(trained()[0]))
    shape_triton(monkeypatch, elements=8)
    assert same(first, copies(trained()[0]))


def test_ids_are_sorted_in_order_of_occurrence():
    ids = torch.tensor([7, 3, 3 - 2**32, 7, 9, 2**40, 3, 0, 2**32 + 1, 7], device=DEVICE)
    rows = launches.sort_ids(ids, ROWS)
    assert rows.ids.tolist() == [-1, -1, -1, -1, 0, 3, 3, 7, 7, 7]
    assert rows.order.tolist() == [2, 4, 5, 8, 7, 1, 6, 0, 3, 9]


def test_ids_outside_the_table_give_nan_and_get_nothing():
    state, table = trained()
    other = kernel.AdamState(*copies(state))
    ids = torch.tensor([5, -1, ROWS, 3, 2**40, 5, -(2**40)], device=DEVICE)
    inside = torch.tensor([0, 3, 5], device=DEVICE)
    gradients = torch.ones(7, DIM, device=DEVICE)
    rows = launches.sort_ids(ids, ROWS)
    launches.catch_up(state, table, rows)
    expected = kernel.gather(other, table, kernel.GatheredRows(ids[inside], ROWS), backend="triton")
    for read in (
        launches.read(state, table, ids, up_to_date=True),
        launches.read(state, table, ids),
    ):
        assert torch.equal(read[inside], expected)
        assert read[[1, 2, 4, 6]].isnan().all()
    table.advance(1e-2)
    launches.update(state, table, rows, gradients)
    rows = kernel.GatheredRows(ids[inside], ROWS)
    kernel.update(other, table, rows, gradients[inside], backend="triton")
    assert same(copies(state), copies(other))


@pytest.mark.skipif(DEVICE == "cpu", reason="there, GatheredRows looks at the ids")
def test_gathered_rows_on_a_gpu_may_be_outside():
    state, table = trained()
    rows = kernel.GatheredRows(torch.tensor([1, -1], device=DEVICE), ROWS)
    assert kernel.gather(state, table, rows)[1].isnan().all()


def test_float32_only():
    state, table = fresh()
    state.weight = state.weight.double()
    with pytest.raises(ValueError, match="backend 'triton' cannot: it takes float32 only"):
        kernel.flush(state, table, backend="triton")
    with pytest.raises(ValueError, match=r"num_rows: got 2147483648, expected fewer than 2\^31"):
        kernel.GatheredRows(torch.tensor([1], device=DEVICE), 2**31)


def test_uninitialised_memory_is_not_read():
    plain, table = trained(2, count=40)
    with poisoned_memory():
        state, table = trained(2, count=40)
        assert launches.read(state, table, torch.arange(ROWS, device=DEVICE)).isfinite().all()
    assert same(copies(state), copies(plain))


def untouched(count, dtype):
    """Memory that is not there until it is written."""
    if DEVICE == "cuda":
        return torch.empty(count, dtype=dtype, device=DEVICE)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize, flags=flags), dtype=dtype)


def test_offsets_past_two_to_the_31():
    """Rows and gradients there give the bits of those that lie together."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dim, last = 16, FAR // 16 - 1
    near, table = trained(4, dim=dim)
    tensors = [untouched(FAR, torch.float32).view(-1, dim) for _ in range(3)]
    far = kernel.AdamState(*tensors, untouched(FAR // 16, torch.int32))
    moved = torch.tensor([1, last], device=DEVICE)
    for mine, theirs in zip(vars(far).values(), copies(near), strict=True):
        mine[moved] = theirs[[1, 5]]
    gradients = untouched(FAR, torch.float32).view(-1, dim)
    occurrences = torch.tensor([0, last], device=DEVICE)
    gradients[occurrences] = torch.tensor([[1.0], [2.0]], device=DEVICE)
    for _ in range(3):
        table.advance(1e-2)
    for state, ids, order, grads in (
        (far, moved, occurrences, gradients),
        (near, moved.clamp(max=5), torch.arange(2, device=DEVICE), gradients[occurrences]),
    ):
        rows = launches.SortedIds(ids.int(), order)
        launches.catch_up(state, table, rows)
        launches.update(state, table, rows, grads)
    for mine, theirs in zip(vars(far).values(), copies(near), strict=True):
        assert torch.equal(mine[moved], theirs[[1, 5]])
    read = launches.read(far, table, moved)
    assert torch.equal(read, launches.read(near, table, moved.clamp(max=5)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert DEVICE == "cuda" or grown < 2**20, "more than 1 GiB (in KiB) was touched"


@pytest.mark.parametrize("backend", ["native", "triton"])
def test_stamps_near_the_int32_limit(backend):
    """The bits of 2^31 - 100,000 steps earlier, when the bias corrections were 1 already."""
    gap, results = 170, []
    for last in (100_000, MAX_STEPS):
        table = kernel.StepTable(0.9, 0.999, 1e-8)
        table.step, known = last, slice(last - gap, last + 1)
        sizes = {"step_size": 1e-3, "inv_sqrt_correction": 1.0}
        steps = DeviceSteps(table, torch.device(DEVICE)) if backend == "triton" else table
        for name, value in sizes.items():
            wide = torch.float32 if backend == "triton" else torch.float64
            values = untouched(last + 1, wide)
            values[known] = value
            setattr(steps, name, values if backend == "triton" else values.numpy())
        results.append(touched_after(last - gap, table, steps, backend))
    early, late = results
    assert same(early[:3], late[:3])
    assert late[3].tolist() == [MAX_STEPS - gap, MAX_STEPS, MAX_STEPS - gap]


def touched_after(tau, table, steps, backend):
    """The state of 3 rows stamped tau, of which row 1 makes the table's step."""
    device = where(backend)
    stamp = torch.full((3,), tau, dtype=torch.int32, device=device)
    values = torch.linspace(1, 2, 12, device=device).view(3, 4)
    state = kernel.AdamState(values.clone(), values.clone(), values.clone(), stamp)
    if backend == "triton":
        steps.step.fill_(table.step)
        steps._written = table.step
        table._on_devices[stamp.device] = steps
    rows = kernel.GatheredRows(torch.tensor([1], device=device), 3)
    kernel.gather(state, table, rows, backend=backend)
    kernel.update(state, table, rows, torch.ones(1, 4, device=device), backend=backend)
    return copies(state)


def test_no_step_beyond_the_limit():
    table = kernel.StepTable(0.9, 0.999, 1e-8)
    table.step = MAX_STEPS
    with pytest.raises(OverflowError, match="expected at most 2147483646 Adam steps"):
        table.advance(1e-3)


# Allocations, views, arithmetic and a sort: output sizes follow from input sizes.
OPERATORS = ALLOWED | {
    "aten.arange.start",
    "aten.bitwise_or.Tensor",
    "aten.copy_.default",
    "aten.empty.memory_format",
    "aten.fill_.Scalar",
    "aten.ge.Scalar",
    "aten.lt.Scalar",
    "aten.masked_fill.Scalar",
    "aten.new_zeros.default",
    "aten.sort.stable",
    "aten.view.default",
}


def step_operators(state, table, seed):
    """Those of everything that a step does."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, ROWS, (12,), generator=generator).to(DEVICE)
    gradients = torch.randn(12, DIM, generator=generator).to(DEVICE)
    with OnlyAllowed(OPERATORS) as mode:
        rows = launches.sort_ids(ids, ROWS)  # of GatheredRows
        launches.catch_up(state, table, rows)
        launches.read(state, table, ids, up_to_date=True)
        table.advance(1e-3)
        launches.update(state, table, rows, gradients)
        launches.read(state, table, ids)
        launches.catch_up(state, table, None)
    return mode.seen


@pytest.fixture
def kernels_apart(monkeypatch):
    """What Triton's interpreter does in a launch is not what a GPU does."""
    launch = launches.launch

    def unseen(*args, **kwargs):
        with _disable_current_modes():
            launch(*args, **kwargs)

    monkeypatch.setattr(launches, "launch", unseen)


def test_only_operators_that_do_not_wait(kernels_apart):
    """The same operators with the same sizes, whatever the values: a CUDA graph replays them."""
    state, table = trained()
    first = step_operators(state, table, seed=1)
    assert "aten.sort.stable" in {name for name, *_ in first}
    assert first == step_operators(state, table, seed=2)


@pytest.mark.parametrize("where, wait", [("fill_", "item"), ("sort", "unique")])
def test_an_operator_that_waits_is_seen(kernels_apart, monkeypatch, where, wait):
    """The test of the test."""
    state, table = trained()
    waiting = getattr(torch.Tensor, wait)
    monkeypatch.setattr(torch.Tensor, where, lambda x, *args, **kwargs: waiting(x))
    with pytest.raises(AssertionError, match="is not known to run without waiting"):
        step_operators(state, table, seed=1)


def test_steps_of_a_schedule_are_on_the_device_as_on_the_host():
    table = kernel.StepTable(0.9, 0.999, 1e-8)
    device = torch.device(DEVICE)
    for number in range(1, 1100):  # beyond the room there is at first
        table.advance(1e-3 / number)
        if number not in (3, 4, 5):  # then several at a time
            steps = table.on(device)
    check_steps(table, steps)
    table.restore(5, [(1, 1e-2), (4, 1e-3)])
    check_steps(table, table.on(device))
    table.restore(0, [])
    assert table.on(device) is steps and steps.step.item() == 0


def check_steps(table, steps):
    assert steps.step.tolist() == [table.step]
    for name in ("step_size", "inv_sqrt_correction"):
        mine, host = getattr(steps, name).cpu(), torch.from_numpy(getattr(table, name)).float()
        assert torch.equal(mine[1 : table.step + 1], host[1 : table.step + 1])
    assert steps.decay.shape == (2, 159)
    powers = torch.arange(1, 160, dtype=torch.float64)
    expected = torch.stack([0.9**powers, 0.999 ** (powers / 2)]).float()
    torch.testing.assert_close(steps.decay.cpu(), expected, rtol=1e-7, atol=0)


def two_steps(state, table, steps, batches):
    for ids, gradients in batches:
        rows = kernel.GatheredRows(ids, ROWS)
        kernel.gather(state, table, rows, backend="triton")
        steps.bump()
        kernel.update(state, table, rows, gradients, backend="triton")


def rates():
    return [1e-2, 1e-2, 5e-3, 1e-3, 2e-3, 3e-3]


def one_by_one():
    state, table = fresh()
    for (ids, gradients), lr in zip(stream(6), rates(), strict=True):
        step(state, table, ids, gradients, lr, "triton")
    return copies(state)


def test_several_steps_that_go_on_by_themselves():
    """As a CUDA graph of two steps does it: the sizes of both are written before."""
    state, table = fresh()
    steps, batches = table.on(state.weight.device), list(stream(6))
    for first in (0, 2, 4):
        for lr in rates()[first : first + 2]:
            table.advance(lr)
        steps.write()
        two_steps(state, table, steps, batches[first : first + 2])
    assert same(copies(state), one_by_one())
    table.reserve(5000)
    table.advance(1e-3)
    with pytest.raises(RuntimeError, match="step 7: a captured graph reads .* call StepTable.res"):
        steps.write()


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_a_cuda_graph_of_two_steps():
    expected = one_by_one()  # and warm up
    state, table = fresh()
    table.reserve(10)
    steps, batches = table.on(state.weight.device), list(stream(6))
    inputs = [tuple(x.clone() for x in batch) for batch in batches[:2]]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        two_steps(state, table, steps, inputs)
    for first in (0, 2, 4):
        for given, batch in zip(inputs, batches[first : first + 2], strict=True):
            for x, values in zip(given, batch, strict=True):
                x.copy_(values)
        for lr in rates()[first : first + 2]:
            table.advance(lr)
        steps.write()
        graph.replay()
    assert same(copies(state), expected)


def test_as_an_optimizer():
    """A model's rows and losses are those of the native backend."""
    losses = []
    for backend in ("native", "triton"):
        table = ItemTable(ROWS, DIM, generator=torch.Generator().manual_seed(0)).to(where(backend))
        optimizer = DeferredAdam(table, lr=0.01, backend=backend)
        mine = []
        for ids, wanted in stream(8):
            optimizer.zero_grad()
            rows = table(ids.to(table.weight.device))
            loss = (rows - wanted.to(rows)).square().mean()
            loss.backward()
            optimizer.step()
            mine.append(loss.detach().cpu())
        losses.append(torch.stack([*mine, table.rows(0, ROWS).sum().cpu()]))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
