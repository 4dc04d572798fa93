"""NaN and infinity stop a run before anything is updated or saved, and are named."""

import re

import numpy as np
import pytest
import torch

from remi_fast import api
from remi_fast.config import Config, LossConfig, ModelConfig, TrainConfig
from remi_fast.errors import NonFiniteError
from remi_fast.kernels.finite import all_finite, first_non_finite, joined
from remi_fast.kernels.native import C
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.models.recommender import make_model
from remi_fast.training import objective as objective_module
from remi_fast.training.step import TrainingStep

ITEMS, DIM, HISTORY, BATCH = 60, 8, 5, 4
BAD = (float("nan"), float("inf"), -float("inf"))


def make(backend, steps):
    """A TrainingStep after so many steps; the same one for the same arguments."""
    config = Config(
        model=ModelConfig(dim=DIM, num_interests=2, max_history=HISTORY),
        loss=LossConfig(num_negatives=7),
        train=TrainConfig(backend=backend),
    )
    training_step = TrainingStep(make_model(config.model, ITEMS, seed=1, backend=backend), config)
    for step in range(steps):
        training_step(step, *batch(step))
    return training_step


def batch(step):
    generator = np.random.default_rng(step)
    length = generator.integers(1, HISTORY + 1, BATCH)
    history = generator.integers(1, ITEMS, (BATCH, HISTORY))
    history[np.arange(HISTORY) >= length[:, None]] = 0
    target = generator.integers(1, ITEMS, BATCH)
    return tuple(torch.from_numpy(x.astype(np.int32)) for x in (history, length, target))


def touched(step, generator):
    """A row that the step reads."""
    history, _, target = batch(step)
    negatives = sample_negatives(7, ITEMS, seed=1, step=step)
    ids = torch.cat([history.flatten(), target, negatives])
    return int(generator.choice(ids[ids > 0].numpy()))


def bits(training_step):
    """All state, every row up to date, as integers: NaN equals itself then."""
    training_step.table_optimizer.flush()
    state = training_step.table_optimizer.state_dict()
    tensors = [state[name] for name in ("exp_avg", "exp_avg_sq", "stamp")]
    tensors += list(training_step.model.state_dict().values())
    for dense in training_step.dense_optimizer.state.values():
        tensors += [dense["exp_avg"], dense["exp_avg_sq"], dense["step"]]
    return [tensor.detach().clone().view(torch.int32) for tensor in tensors], state["step"]


def in_a_row(training_step, step, bad, generator, monkeypatch):
    row, column = touched(step, generator), int(generator.integers(DIM))
    training_step.model.table.weight[row, column] = bad
    return f"item table: weight of row {row}: got {bad} in column {column}"


def in_a_moment(training_step, step, bad, generator, monkeypatch):
    row, column = touched(step, generator), int(generator.integers(DIM))
    name = str(generator.choice(["exp_avg", "exp_avg_sq"]))
    training_step.table_optimizer.state_dict()[name][row, column] = bad
    return f"item table: {name} of row {row}: got {bad} in column {column}"


def dense_element(training_step, generator):
    names = dict(training_step.model.extractor.named_parameters())
    name = str(generator.choice(list(names)))
    return name, names[name], tuple(int(generator.integers(n)) for n in names[name].shape)


def in_a_dense_weight(training_step, step, bad, generator, monkeypatch):
    name, weight, index = dense_element(training_step, generator)
    weight.detach()[index] = bad
    return f"extractor: weight {name}: got {bad} in row {index[0]}, column {index[1]}"


def in_a_dense_moment(training_step, step, bad, generator, monkeypatch):
    name, weight, index = dense_element(training_step, generator)
    moment = str(generator.choice(["exp_avg", "exp_avg_sq"]))
    training_step.dense_optimizer.state[weight][moment][index] = bad
    return f"extractor: {moment} of {name}: got {bad} in row {index[0]}, column {index[1]}"


def in_the_loss(training_step, step, bad, generator, monkeypatch):
    whole = objective_module.multi_interest_ihn_loss_rows
    sample = int(generator.integers(BATCH))

    def broken(*arguments, **options):
        ihn, chosen, rr = whole(*arguments, **options)
        return ihn.index_fill(0, torch.tensor([sample]), bad), chosen, rr

    monkeypatch.setattr(objective_module, "multi_interest_ihn_loss_rows", broken)
    return f"the loss is {bad} .*ihn of sample {sample} is {bad}"


def in_a_gradient(training_step, step, bad, generator, monkeypatch):
    whole = objective_module.multi_interest_ihn_loss_rows
    where = str(generator.choice(["interests", "target"]))
    sample, column = int(generator.integers(BATCH)), int(generator.integers(DIM))

    def broken(interests, target_rows, *others, **options):
        def spoil(gradient):
            gradient = gradient.clone()
            gradient[sample].view(-1, DIM)[0, column] = bad
            return gradient

        (interests if where == "interests" else target_rows).register_hook(spoil)
        return whole(interests, target_rows, *others, **options)

    monkeypatch.setattr(objective_module, "multi_interest_ihn_loss_rows", broken)
    if where == "interests":  # all weights of the extractor get one
        return r"extractor: gradient of \w+: got -?(nan|inf) in row \d+"
    row = int(batch(step)[2][sample])
    return f"item table: gradient of row {row}: got {bad} in column {column}"


PLACES = (
    in_a_row,
    in_a_moment,
    in_a_dense_weight,
    in_a_dense_moment,
    in_the_loss,
    in_a_gradient,
)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_updated_and_the_place_is_named(place, backend, at_scale):
    for trial in range(at_scale(3, 100)):
        generator = np.random.default_rng(trial)
        step, bad = int(generator.integers(1, 9)), BAD[trial % 3]
        training_step, twin = make(backend, step), make(backend, step)
        with pytest.MonkeyPatch.context() as monkeypatch:
            for one in (training_step, twin):  # the same injection in both
                text = place(one, step, bad, np.random.default_rng(trial), monkeypatch)
            with pytest.raises(NonFiniteError, match=f"step {step}: {text}"):
                training_step(step, *batch(step))
        after, steps_after = bits(training_step)
        before, steps_before = bits(twin)
        assert steps_after == steps_before == step
        for a, b in zip(after, before, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("row", ["late", "up to date", "never touched"])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_moment_of_any_row_is_looked_at(backend, row, name):
    ids = {"late": 3, "up to date": 7, "never touched": 9}
    for bad in BAD:
        training_step = make(backend, 0)
        table, optimizer = training_step.model.table, training_step.table_optimizer
        for touched_rows in ([3, 7], [7]):
            table(torch.tensor(touched_rows)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.state_dict()[name][ids[row], 2] = bad
        text = f"step 2: item table: {name} of row {ids[row]}: got {bad} in column 2"
        with pytest.raises(NonFiniteError, match=text):
            table(torch.tensor([1, *ids.values()]))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_gradients_of_padding_do_not_matter(backend):
    """They are dropped; what they hold is not told of, and hides nothing else."""
    training_step = make(backend, 0)
    table, optimizer = training_step.model.table, training_step.table_optimizer
    for ids, wrong in (([5, 0], 1), ([0, 5], 0), ([5, 6], None)):
        rows = table(torch.tensor(ids))
        rows.sum().backward()
        (leaf,) = optimizer.param_groups[0]["params"][1:]
        if wrong is not None:
            leaf.grad[wrong] = torch.nan
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.steps_taken == 3 and table.rows(0, ITEMS).isfinite().all()
    for ids in ([0, 5, 6], [5, 6, 0], [5, 6]):
        table(torch.tensor(ids)).sum().backward()
        optimizer.param_groups[0]["params"][1].grad[[ids.index(5)]] = torch.inf
        if 0 in ids:
            optimizer.param_groups[0]["params"][1].grad[ids.index(0)] = torch.nan
        with pytest.raises(NonFiniteError, match="step 3: item table: gradient of row 5: got inf"):
            optimizer.step()
        optimizer.zero_grad()


def test_a_step_goes_on_where_only_the_gradient_of_padding_is_not_finite(monkeypatch):
    whole = objective_module.multi_interest_ihn_loss_rows
    training_step, twin = make("native", 3), make("native", 3)
    padding = (batch(3)[0].flatten() == 0).nonzero()[0]

    def broken(*arguments, **options):
        history_rows = training_step.table_optimizer.param_groups[0]["params"][1]
        history_rows.register_hook(lambda gradient: gradient.index_fill(0, padding, bad))
        return whole(*arguments, **options)

    twin(3, *batch(3))
    bad = torch.nan
    monkeypatch.setattr(objective_module, "multi_interest_ihn_loss_rows", broken)
    training_step(3, *batch(3))
    for a, b in zip(bits(training_step)[0], bits(twin)[0], strict=True):
        assert torch.equal(a, b)


def test_moments_that_were_loaded_are_looked_at():
    """They are other tensors than those that were looked at before."""
    training_step = make("native", 4)
    dense = training_step.dense_optimizer
    dense.load_state_dict(dense.state_dict())
    weight = training_step.model.extractor.w2
    dense.state[weight]["exp_avg"] = dense.state[weight]["exp_avg"].clone()
    dense.load_state_dict(dense.state_dict())
    dense.state[weight]["exp_avg"][1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="step 4: extractor: exp_avg of w2: got nan in row 1"):
        training_step(4, *batch(4))


def train(dataset, run):
    config = Config(
        model=ModelConfig(dim=8, num_interests=2, max_history=5),
        loss=LossConfig(num_negatives=20),
        train=TrainConfig(batch_size=16, steps=12, eval_every=4, threads=1, device="cpu"),
    )
    return api.train(dataset.path, run, config)


@pytest.mark.parametrize("bad", BAD)
def test_the_last_good_checkpoint_stands(dataset, tmp_path, monkeypatch, bad):
    whole = TrainingStep.__call__

    def broken(self, step, *arguments):
        result = whole(self, step, *arguments)
        if step == 6:
            self.model.extractor.w1.detach()[3, 1] = bad
        return result

    monkeypatch.setattr(TrainingStep, "__call__", broken)
    with pytest.raises(NonFiniteError, match=f"step 7: extractor: weight w1: got {bad} in row 3"):
        train(dataset, tmp_path / "run")
    monkeypatch.undo()
    resumed = api.resume(tmp_path / "run")
    assert resumed["train"]["steps"] == 12
    assert resumed["test"] == train(dataset, tmp_path / "other")["test"]


def test_what_is_not_finite_is_not_saved(dataset, tmp_path, monkeypatch):
    """Rows that no step reads any more are looked at when they are saved."""
    whole = TrainingStep.__call__

    def broken(self, step, *arguments):
        result = whole(self, step, *arguments)
        if step == 7:  # the last before a save
            self.model.table.weight[11, 2] = float("nan")
        return result

    monkeypatch.setattr(TrainingStep, "__call__", broken)
    text = re.escape("checkpoint: table.weight: got nan at [11, 2]")
    with pytest.raises(NonFiniteError, match=text):
        train(dataset, tmp_path / "run")
    monkeypatch.undo()
    assert api.load(tmp_path / "run").model.rows(11, 12).isfinite().all()
    assert api.resume(tmp_path / "run")["train"]["steps"] == 12


def test_a_finite_gradient_whose_square_is_not():
    """Adam's second moment overflows: the row would never move again."""
    training_step = make("native", 3)
    table, optimizer = training_step.model.table, training_step.table_optimizer
    table(torch.tensor([5])).sum().mul(1e25).backward()
    optimizer.step()
    with pytest.raises(NonFiniteError, match="step 4: item table: exp_avg_sq of row 5: got inf"):
        table(torch.tensor([4, 5]))


@pytest.mark.parametrize("size", [0, 1, 7, 16, 100, 1 << 14, (1 << 15) + 3])
def test_every_element_is_looked_at(size):
    for dtype in (torch.float32, torch.float64):
        values = torch.full((size,), torch.finfo(dtype).max, dtype=dtype)
        assert all_finite([values, -values]) and first_non_finite(values) is None
        for index in {0, size // 2, size - 1} if size else ():
            for bad in BAD:
                broken = values.clone()
                broken[index] = bad
                assert not all_finite([broken])
                broken[index] = broken[-1] = bad
                assert not all_finite([values, broken])
                found, value = first_non_finite(broken)
                assert found == (index,) and str(value) == str(bad)


@pytest.mark.parametrize("sizes", [[3], [0, 1], [5, 1, 9], [700, 0, 1200]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_joined_and_looked_at(dtype, sizes):
    generator = torch.Generator().manual_seed(sum(sizes))
    parts = [torch.randn(n, 33, generator=generator, dtype=dtype) for n in sizes]
    whole, finite = joined(parts)
    assert finite and torch.equal(whole, torch.cat(parts))
    strided, finite = joined([part.T.contiguous().T for part in parts])
    assert finite and torch.equal(strided, whole)
    for part in parts:
        for place in {(0, 0), (-1, -1), (len(part) // 2, 7)} if len(part) else ():
            for bad in BAD:
                good = part[place].clone()
                part[place] = bad
                whole, finite = joined(parts)
                assert not finite and whole.nan_to_num(7).equal(torch.cat(parts).nan_to_num(7))
                assert not joined([each.T.contiguous().T for each in parts])[1]
                part[place] = good


def test_what_does_not_fit_is_not_joined():
    for numbers in (1, 3):
        with pytest.raises(ValueError, match=f"out: expected 2 numbers.*, got {numbers}"):
            C.join([np.ones(2, np.float32)], np.ones(numbers, np.float32))
    with pytest.raises(TypeError):
        C.join([np.ones(2)], np.ones(2, np.float32))


def test_strided_tensors_are_looked_at_as_they_are():
    values = torch.zeros(6, 4)
    values[:, 3] = torch.nan
    assert all_finite([values[:, :3], values.T[:2]]) and not all_finite([values.T])
