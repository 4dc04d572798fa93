"""DeferredAdam as an optimizer: against torch.optim.Adam on a whole model, saving, schedules,
clipping, GradScaler."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam

ITEMS, DIM = 60, 6


def stream(steps):
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        ids = (torch.rand(8, generator=generator) ** 3 * (ITEMS - 5)).long()
        yield ids, torch.randn(8, DIM, generator=generator)


def loss_of(rows, wanted):
    return (rows - wanted).square().mean() + rows.sum(dim=1).tanh().mean()


def make(backend="auto", **options):
    table = ItemTable(ITEMS, DIM, generator=torch.Generator().manual_seed(0))
    return table, DeferredAdam(table, lr=0.01, backend=backend, **options)


def train(table, optimizer, batches):
    for ids, wanted in batches:
        optimizer.zero_grad()
        loss_of(table(ids), wanted).backward()
        optimizer.step()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("schedule", [False, True])
def test_follows_dense_adam_through_a_model(backend, schedule):
    table, optimizer = make(backend)
    weight = torch.nn.Parameter(table.weight.detach().double().clone())
    dense = torch.optim.Adam([weight], lr=0.01)
    optimizers = (optimizer, dense)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 40, gamma=0.5) for o in optimizers]
    for ids, wanted in stream(150):
        dense.zero_grad()
        loss_of(weight[ids], wanted.double()).backward()
        weight.grad[0] = 0  # padding is frozen
        dense.step()
        train(table, optimizer, [(ids, wanted)])
        if schedule:
            for scheduler in schedulers:
                scheduler.step()
    got = table.rows(0, ITEMS).double()
    assert (weight - table.weight).abs().max() > 0.01, "nothing was deferred"
    torch.testing.assert_close(got, weight.detach(), rtol=0, atol=2e-5)
    assert (got[0] == 0).all()
    optimizer.flush()
    assert torch.equal(table.weight.double(), got)


def test_saving_and_loading_in_the_middle_continues_with_the_same_bits():
    table, optimizer = make()
    batches = list(stream(120))
    train(table, optimizer, batches[:70])
    optimizer.param_groups[0]["lr"] = 0.002
    train(table, optimizer, batches[70:80])
    state = {k: v.clone() if torch.is_tensor(v) else v for k, v in optimizer.state_dict().items()}
    weight = table.weight.clone()
    train(table, optimizer, batches[80:])
    again, other = make()
    again.weight.copy_(weight)
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == 0.002 and other.steps_taken == 80
    train(again, other, batches[80:])
    assert torch.equal(again.weight, table.weight)
    assert torch.equal(again.rows(0, ITEMS), table.rows(0, ITEMS))


def test_a_table_with_room_for_its_moments_has_the_same_bits():
    table, optimizer = make()
    generator = torch.Generator().manual_seed(0)
    roomy = ItemTable(ITEMS, DIM, generator=generator, room_for_moments=True)
    address, before = roomy.weight.data_ptr(), roomy.weight.clone()
    assert roomy.weight.is_contiguous() and torch.equal(before, table.weight)
    beside = DeferredAdam(roomy, lr=0.01)
    assert roomy.weight.data_ptr() == address and torch.equal(roomy.weight, before)
    state = beside.state_dict()
    for number, moment in enumerate((state["exp_avg"], state["exp_avg_sq"]), 1):
        assert moment.data_ptr() == address + 4 * DIM * number and not moment.any()

    batches = list(stream(60))
    for each, its in ((table, optimizer), (roomy, beside)):
        train(each, its, batches[:40])
    again, other = make()  # a state goes from one form to the other
    again.weight.copy_(roomy.weight)
    other.load_state_dict(beside.state_dict())
    for each, its in ((table, optimizer), (roomy, beside), (again, other)):
        train(each, its, batches[40:])
    for each, its in ((roomy, beside), (again, other)):
        assert torch.equal(each.weight, table.weight)
        assert torch.equal(each.rows(0, ITEMS), table.rows(0, ITEMS))
        assert torch.equal(its.state_dict()["exp_avg_sq"], optimizer.state_dict()["exp_avg_sq"])


def test_state_in_safetensors_and_json_continues_with_the_same_bits(tmp_path):
    table, optimizer = make()
    batches = list(stream(60))
    train(table, optimizer, batches[:40])
    state = optimizer.state_dict()
    tensors = {name: value for name, value in state.items() if torch.is_tensor(value)}
    save_file(tensors | {"weight": table.weight}, tmp_path / "table.safetensors")
    rest = json.dumps({name: value for name, value in state.items() if name not in tensors})

    again, other = make()
    tensors = load_file(tmp_path / "table.safetensors")
    again.weight.copy_(tensors.pop("weight"))
    other.load_state_dict(tensors | json.loads(rest))
    for each, its in ((table, optimizer), (again, other)):
        train(each, its, batches[40:])
    assert torch.equal(again.weight, table.weight)
    assert torch.equal(again.rows(0, ITEMS), table.rows(0, ITEMS))


def test_several_gathers_before_a_step_are_one():
    ids, wanted = next(stream(1))
    first, one = make()
    second, two = make()
    train(first, one, [(ids, wanted)])
    rows = torch.cat([second(ids[:3]), second(ids[3:])])
    loss_of(rows, wanted).backward()
    two.step()
    torch.testing.assert_close(first.rows(0, ITEMS), second.rows(0, ITEMS))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_several_tensors_of_ids_are_one_gather(backend):
    """Of any shapes and integer dtypes, also where one part gets no gradient."""
    first, one = make(backend)
    second, two = make(backend)
    for ids, wanted in stream(20):
        part, rest = ids[: len(ids) // 2 * 2], ids[len(ids) // 2 * 2 :]
        for optimizer in (one, two):
            optimizer.zero_grad()
        pairs, unused, odd = second.lookup(part.view(2, -1).int(), torch.arange(4), rest)
        assert pairs.shape == (2, len(part) // 2, DIM) and unused.shape == (4, DIM)
        rows = first(torch.cat([ids, torch.arange(4)]))[: len(ids)]
        assert torch.equal(rows, torch.cat([pairs.flatten(0, 1), odd]))
        loss_of(rows, wanted).backward()
        loss_of(torch.cat([pairs.flatten(0, 1), odd]), wanted).backward()
        one.step()
        two.step()
        assert torch.equal(one.state_dict()["stamp"], two.state_dict()["stamp"])
    assert torch.equal(first.rows(0, ITEMS), second.rows(0, ITEMS))


def test_rows_without_gradient_and_forgotten_rows_do_not_move():
    table, optimizer = make()
    before = table.rows(0, ITEMS)
    table(torch.tensor([1, 2]))
    optimizer.step()
    table(torch.tensor([3])).sum().backward()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(table.rows(0, ITEMS), before)


def test_reading_under_no_grad_is_not_training():
    table, optimizer = make()
    with torch.no_grad():
        rows = table(torch.tensor([[4, 5]]))
    assert rows.shape == (1, 2, DIM) and not rows.requires_grad
    assert optimizer.param_groups[0]["params"] == [table.weight]


def test_refusals():
    table, optimizer = make()
    with pytest.raises(ValueError, match="has a DeferredAdam already"):
        DeferredAdam(table)
    with pytest.raises(ValueError, match="expected lr >= 0"):
        DeferredAdam(ItemTable(3, 2), lr=-1.0)
    with pytest.raises(ValueError, match="weight_decay: got 0.1, expected 0: decay shrinks"):
        DeferredAdam(ItemTable(3, 2), weight_decay=0.1)
    with pytest.raises(ValueError, match="add_param_group: got another group, expected none"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(IndexError, match=r"ids\[1\] = 60"):
        table(torch.tensor([0, 60]))
    state = optimizer.state_dict() | {"betas": [0.5, 0.999]}
    with pytest.raises(ValueError, match=r"got betas \[0.5, 0.999\]"):
        optimizer.load_state_dict(state)
    other = DeferredAdam(ItemTable(3, 2))
    with pytest.raises(ValueError, match=r"state_dict\['exp_avg'\]: got shape \(60, 6\)"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("stamp", [-1, 1])
def test_stamps_of_a_state_are_steps_it_has_taken(stamp):
    optimizer = DeferredAdam(ItemTable(3, 2))
    before = optimizer.state_dict()["exp_avg"].clone()
    bad = {"stamp": torch.tensor([0, stamp, 0]), "exp_avg": torch.ones(3, 2)}
    with pytest.raises(ValueError, match=rf"'stamp'\]: got {min(stamp, 0)} to .*expected 0 to 0"):
        optimizer.load_state_dict(optimizer.state_dict() | bad)
    assert torch.equal(optimizer.state_dict()["exp_avg"], before)


def both(lr=0.01):
    """The same float64 model twice, each with its optimizers: deferred, and dense from torch."""
    models = []
    for dense in (False, True):
        table = ItemTable(ITEMS, DIM, generator=torch.Generator().manual_seed(0)).double()
        head = torch.nn.Linear(DIM, DIM, bias=False).double()
        torch.nn.init.eye_(head.weight)
        if dense:
            table = torch.nn.Embedding.from_pretrained(table.weight, freeze=False, padding_idx=0)
            optimizer = torch.optim.Adam(table.parameters(), lr=lr)
        else:
            optimizer = DeferredAdam(table, lr=lr)
        models.append((table, head, optimizer, torch.optim.Adam(head.parameters(), lr=lr)))
    return models


def parameters_of(*optimizers):
    return [p for o in optimizers for group in o.param_groups for p in group["params"]]


def assert_same_rows(table, dense):
    got, expected = table.rows(0, ITEMS), dense.weight.detach()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
    assert (got[0] == 0).all()


@pytest.mark.parametrize("gathers", [1, 3])
def test_merged_gradients_are_clipped_as_dense_adam_clips_them(gathers):
    deferred, dense = both()
    norms = []
    for ids, wanted in stream(80):
        ids[:3] = torch.tensor([0, 7, 7])
        for table, head, *optimizers in (deferred, dense):
            for optimizer in optimizers:
                optimizer.zero_grad()
            rows = torch.cat([table(part) for part in ids.tensor_split(gathers)])
            loss_of(head(rows), wanted.double()).backward()
            if table is deferred[0]:
                optimizers[0].merge_gradients()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters_of(*optimizers), 0.5))
            for optimizer in optimizers:
                optimizer.step()
    ours, theirs = torch.stack(norms[::2]), torch.stack(norms[1::2])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    assert (theirs > 0.5).any() and (theirs < 0.5).any(), "nothing, or everything, was clipped"
    assert_same_rows(deferred[0], dense[0])


def test_merging_gradients_changes_no_bit_of_a_step():
    first, one = make()
    second, two = make()
    for ids, wanted in stream(20):
        train(first, one, [(ids, wanted)])
        two.zero_grad()
        second(ids[:1])  # without a gradient
        rows = torch.cat([second(ids[:3]), second(ids[3:3]), second(ids[3:])])
        loss_of(rows, wanted).backward()
        two.merge_gradients()
        merged = torch.cat([p.grad for p in parameters_of(two) if p.grad is not None])
        assert (merged != 0).any(1).sum() == len(ids[ids > 0].unique())
        two.step()
    assert torch.equal(first.rows(0, ITEMS), second.rows(0, ITEMS))


def test_nothing_to_merge():
    table, optimizer = make()
    optimizer.merge_gradients()
    table(torch.empty(0, dtype=torch.int64)).sum().backward()
    optimizer.merge_gradients()
    optimizer.step()
    assert optimizer.steps_taken == 1
    optimizer.step()  # of no gather at all: dense Adam makes it, too
    assert optimizer.steps_taken == 2


def everything(table, optimizer):
    state = optimizer.state_dict() | {"weight": table.weight, "rows": table.rows(0, ITEMS)}
    return {k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()}


def assert_unchanged(before, after):
    for name, value in before.items():
        same = torch.equal(value, after[name]) if torch.is_tensor(value) else value == after[name]
        assert same, name


def test_grad_scaler_scales_clips_and_skips_as_with_dense_adam():
    deferred, dense = both()
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7) for _ in range(2)]
    skipped = 0
    for step, (ids, wanted) in enumerate(stream(80)):
        overflows = step % 9 == 4
        for (table, head, *optimizers), scaler in zip((deferred, dense), scalers, strict=True):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = loss_of(head(table(ids)), wanted.double()) * (torch.inf if overflows else 1)
            scaler.scale(loss).backward()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            if table is deferred[0]:
                optimizers[0].merge_gradients()
                before = everything(table, optimizers[0])
            torch.nn.utils.clip_grad_norm_(parameters_of(*optimizers), 0.5)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            if overflows and table is deferred[0]:
                skipped += 1
                assert_unchanged(before, everything(table, optimizers[0]))
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert skipped == 9 and deferred[2].steps_taken == 80 - skipped
    assert_same_rows(deferred[0], dense[0])


def test_grad_scaler_without_unscaling_first():
    table, optimizer = make()
    other, plain = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for ids, wanted in stream(20):
        optimizer.zero_grad()
        scaler.scale(loss_of(table(ids), wanted)).backward()
        scaler.step(optimizer)
        scaler.update()
        train(other, plain, [(ids, wanted)])
    assert torch.equal(table.rows(0, ITEMS), other.rows(0, ITEMS))


def test_rows_of_a_skipped_step_are_forgotten_by_zero_grad():
    table, optimizer = make()
    before = table.rows(0, ITEMS)
    table(torch.tensor([1, 2])).sum().backward()
    assert len(parameters_of(optimizer)) == 2
    optimizer.zero_grad()
    assert parameters_of(optimizer) == [table.weight]
    table(torch.tensor([3])).sum().backward()
    optimizer.step()
    assert parameters_of(optimizer) == [table.weight], "step keeps no gradient alive"
    assert torch.equal(table.rows(0, 3), before[:3])
    assert not torch.equal(table.rows(3, 4), before[3:4])


@pytest.fixture
def one_thread():
    """Small operations crawl where threads wait for each other on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_example_of_the_documentation(one_thread, capsys):
    runpy.run_path(str(Path(__file__).parent.parent / "docs/deferred_adam_example.py"))
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0] / 2
