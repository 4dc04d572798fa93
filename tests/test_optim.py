"""DeferredAdam as an optimizer: against torch.optim.Adam on a whole model, saving, schedules."""

import pytest
import torch

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


def test_several_gathers_before_a_step_are_one():
    ids, wanted = next(stream(1))
    first, one = make()
    second, two = make()
    train(first, one, [(ids, wanted)])
    rows = torch.cat([second(ids[:3]), second(ids[3:])])
    loss_of(rows, wanted).backward()
    two.step()
    torch.testing.assert_close(first.rows(0, ITEMS), second.rows(0, ITEMS))


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
    assert not optimizer._pending


def test_refusals():
    table, optimizer = make()
    with pytest.raises(ValueError, match="has a DeferredAdam already"):
        DeferredAdam(table)
    with pytest.raises(ValueError, match="expected lr >= 0"):
        DeferredAdam(ItemTable(3, 2), lr=-1.0)
    with pytest.raises(IndexError, match=r"ids\[1\] = 60"):
        table(torch.tensor([0, 60]))
    state = optimizer.state_dict() | {"betas": [0.5, 0.999]}
    with pytest.raises(ValueError, match=r"got betas \[0.5, 0.999\]"):
        optimizer.load_state_dict(state)
    other = DeferredAdam(ItemTable(3, 2))
    with pytest.raises(ValueError, match=r"state_dict\['exp_avg'\]: got shape \(60, 6\)"):
        other.load_state_dict(optimizer.state_dict())
