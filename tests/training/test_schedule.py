"""Learning-rate schedules: their values, training steps by them, and resuming."""

import dataclasses
import itertools
import math

import pytest
import torch

from remi_fast import api, files
from remi_fast.config import OptimConfig
from remi_fast.errors import RunFolderError
from remi_fast.kernels import deferred_adam_state
from remi_fast.optim import check_steps
from remi_fast.training import checkpoint, shards
from tests.training import test_device_step as device_steps
from tests.training import test_step as steps
from tests.training import test_trainer as runs
from tests.training import test_trainer_on_a_device as device_runs
from tests.training.test_device_step import bits
from tests.training.test_device_step import same as same_bits

SCHEDULES = (
    {"warmup_steps": 4},
    {"schedule": "linear"},
    {"schedule": "cosine", "warmup_steps": 3},
)


def by_scheduler(make, steps, rate=0.5):
    """The rates that a scheduler of torch sets."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make(optimizer)
    for _ in range(steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


def rates(steps, **options):
    return [OptimConfig(lr=0.5, **options).lr_at(step, steps) for step in range(steps)]


def test_schedules_are_torch_s():
    schedulers = torch.optim.lr_scheduler
    cosine = by_scheduler(lambda x: schedulers.CosineAnnealingLR(x, T_max=50), 50)
    assert rates(50, schedule="cosine") == pytest.approx(list(cosine))
    linear = by_scheduler(lambda x: schedulers.LinearLR(x, 1.0, 0.0, total_iters=50), 50)
    assert rates(50, schedule="linear") == pytest.approx(list(linear))
    assert rates(50) == [0.5] * 50
    assert rates(50, schedule="linear") != pytest.approx(rates(50, schedule="cosine"))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_comes_first(schedule):
    """It reaches the rate in its last step; what follows begins with it, and ends near 0."""
    values = rates(44, schedule=schedule, warmup_steps=4)
    assert values[:4] == [0.125, 0.25, 0.375, 0.5]
    assert values[4:] == pytest.approx(rates(40, schedule=schedule))
    assert values[4] == 0.5


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_edges_of_a_schedule(schedule):
    optim = OptimConfig(lr=0.5, schedule=schedule)
    assert optim.lr_at(0, 1) == 0.5 and optim.lr_at(0, 10**6) == 0.5
    assert 0 < optim.lr_at(10**6 - 1, 10**6) < 1e-6
    assert optim.lr_at(10**6, 10**6) == 0 and optim.lr_at(10**6 + 1, 10**6) == 0
    longer = OptimConfig(lr=0.5, schedule=schedule, warmup_steps=40)
    assert longer.lr_at(9, 10) == 0.125, "a warm-up longer than the run"
    assert longer.lr_at(40, 40) == 0.5


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda x: "-".join(map(str, x.values())))
def test_steps_are_those_of_plain_pytorch(options):
    steps.compare_with_plain_pytorch(steps.LossConfig(num_negatives=15), **options)


@pytest.fixture(params=[1, 100], ids=["one a step", "runs"])
def stored(request, monkeypatch):
    """Rates as a tensor of the checkpoint, and as JSON."""
    monkeypatch.setattr(deferred_adam_state, "_MOST_RUNS", request.param)


def test_a_run_resumes_with_the_same_bits(monkeypatch, stored, dataset, tmp_path):
    optim = OptimConfig(lr=0.01, schedule="cosine", warmup_steps=6)
    chosen = dataclasses.replace(runs.config(checkpoint_every=5), optim=optim)
    monkeypatch.setattr(runs.module, "LOG_EVERY", 10)
    api.train(dataset.path, tmp_path / "whole", chosen)
    with monkeypatch.context() as patch, pytest.raises(runs._Killed):
        runs.killed_after(patch, 17)
        api.train(dataset.path, tmp_path / "killed", chosen)
    api.resume(tmp_path / "killed")
    assert runs.same(runs.tensors(tmp_path / "killed"), runs.tensors(tmp_path / "whole"))
    assert runs.log(tmp_path / "killed") == runs.log(tmp_path / "whole")
    logged = {line["step"]: line["lr"] for line in runs.log(tmp_path / "whole") if "loss" in line}
    steps = chosen.train.steps
    assert logged == {step: optim.lr_at(step - 1, steps) for step in range(10, steps + 1, 10)}
    assert len(set(logged.values())) == 4, "rate of the last step"


def test_steps_on_a_device():
    """As the reference's, and the same bits however they are cut."""
    options = {"optim": {"schedule": "cosine", "warmup_steps": 3}, "steps": 7}
    found = []
    for steps_a_replay, parts in ((100, [7]), (3, [1, 6])):
        step, device = device_steps.on_device(steps_a_replay=steps_a_replay, **options)
        losses = list(itertools.chain(*(device.advance(part) for part in parts)))
        found.append((bits(step), losses))
    assert same_bits(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    other, expected, _ = device_steps.by_reference(7, **options)
    for mine, its in zip(losses, expected, strict=True):
        assert dataclasses.astuple(mine) == pytest.approx(
            dataclasses.astuple(its), rel=2e-5, abs=1e-6
        )
    for mine, its in zip(device_steps.tensors(step), device_steps.tensors(other), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=device_steps.RATE * 1e-3)
    assert step.table_optimizer.step_table.lrs == [step.rate(number) for number in range(7)]


def test_a_state_of_a_device_goes_on(stored, tmp_path):
    options = {"optim": {"schedule": "linear"}, "steps": 6}
    step, device = device_steps.on_device(**options)
    losses = device.advance(6)
    half, first = device_steps.on_device(**options)
    first.advance(3)
    checkpoint.save_training_state(tmp_path / "state", half, {})
    other, second = device_steps.on_device(**options)
    checkpoint.restore_training_state(tmp_path / "state", other)
    assert second.advance(3) == losses[3:] and same_bits(bits(other), bits(step))


def test_a_run_on_a_device_is_that_of_the_cpu(dataset, tmp_path):
    for backend in ("native", "triton"):
        optim = OptimConfig(lr=0.01, schedule="linear", warmup_steps=2)
        chosen = dataclasses.replace(device_runs.config(backend), optim=optim)
        api.train(dataset.path, tmp_path / backend, chosen)
    mine, its = (runs.tensors(tmp_path / backend) for backend in ("triton", "native"))
    assert mine.keys() == its.keys()
    for name, values in mine.items():
        torch.testing.assert_close(values, its[name], rtol=1e-3, atol=1e-5)


def test_rates_of_many_values_are_kept_one_a_step():
    table = deferred_adam_state.StepTable(0.9, 0.99, 1e-8)
    given = [0.01 * (2 + math.sin(step)) for step in range(5000)]
    for rate in given:
        table.advance(rate)
    assert torch.is_tensor(table.rates) and table.rates.dtype == torch.float64
    assert table.rates.tolist() == given
    restored = deferred_adam_state.StepTable(0.9, 0.99, 1e-8)
    restored.restore(5000, table.rates)
    table.reserve(6000)
    for name in ("_lr", "step_size", "inv_sqrt_correction"):
        mine, its = (getattr(x, name)[1:5001] for x in (restored, table))
        assert (mine == its).all(), "to the bit, also after the corrections are 1"
    table.rewind(3)
    assert table.rates == [(1, given[0]), (2, given[1]), (3, given[2])]
    table.rewind(0)
    assert table.rates == []


def checkpoint_of(monkeypatch, folder, rates):
    """Of a training of three steps, with other rates in it."""
    step = steps.TrainingStep(*model_and_config())
    for number, batch in zip(range(3), steps.batches(), strict=False):
        step(number, *batch)
    with monkeypatch.context() as patch:
        patch.setattr(deferred_adam_state.StepTable, "rates", rates)
        checkpoint.save_training_state(folder, step, {})


def model_and_config():
    config = steps.Config(
        model=steps.ModelConfig(dim=4, num_interests=2, max_history=5),
        loss=steps.LossConfig(num_negatives=5),
    )
    return steps.make_model(config.model, steps.ITEMS, seed=1), config


MISFITS = (
    torch.full((2,), 0.1, dtype=torch.float64),
    torch.full((3,), 0.1),
    torch.tensor([0.1, -0.1, 0.1], dtype=torch.float64),
    torch.tensor([0.1, math.nan, 0.1], dtype=torch.float64),
    torch.full((3, 1), 0.1, dtype=torch.float64),
)


@pytest.mark.parametrize("rates", MISFITS)
def test_rates_that_do_not_fit(monkeypatch, tmp_path, rates):
    with pytest.raises(ValueError, match="expected a number of steps, .* float64 rates, one a st"):
        check_steps({"step": 3, "lr": 0.1, "lr_runs": rates})
    if rates.isnan().any():
        return  # they are not saved
    checkpoint_of(monkeypatch, tmp_path / "state", rates)
    with pytest.raises(RunFolderError, match=r"state.json: got table_optimizer .* rate of each"):
        fresh = steps.TrainingStep(*model_and_config())
        checkpoint.restore_training_state(tmp_path / "state", fresh)


def test_rates_in_both_places(monkeypatch, tmp_path):
    """A tensor, and JSON."""
    checkpoint_of(monkeypatch, tmp_path / "state", torch.full((3,), 0.1, dtype=torch.float64))
    path = tmp_path / "state" / "state.json"
    record = files.read_checked_json(path)
    del record["crc32"]
    record["table_optimizer"]["lr_runs"] = [[1, 0.1]]
    files.write_checked_json(path, record)
    with pytest.raises(RunFolderError, match="got lr_runs of"):
        fresh = steps.TrainingStep(*model_and_config())
        checkpoint.restore_training_state(tmp_path / "state", fresh)


def test_one_tensor_is_read(tmp_path):
    tensors = {"one": torch.arange(3.0), "other": torch.ones(2)}
    paths = shards.write(tmp_path, "group", tensors)
    assert shards.read(paths, "one").keys() == {"one"}
    assert torch.equal(shards.read(paths, "one")["one"], tensors["one"])
    assert shards.read(paths, "none") == {}


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_what_is_announced_is_a_rate(rate):
    model, config = model_and_config()
    step = steps.TrainingStep(model, config)
    with pytest.raises(ValueError, match=r"rates: got .*, expected a finite number >= 0"):
        step.table_optimizer.schedule_steps([0.1, rate])
    assert step.table_optimizer.steps_taken == 0
