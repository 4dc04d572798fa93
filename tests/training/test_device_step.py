"""Steps that the device makes by itself: as the reference's, the same bits however they are cut,
and stopped by what is not finite."""

import copy
import dataclasses
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from remi_fast.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig
from remi_fast.data.device_loader import DeviceBatchLoader
from remi_fast.data.loader import BatchLoader
from remi_fast.data.uploaded_batches import UploadedBatches
from remi_fast.errors import NonFiniteError
from remi_fast.kernels import ihn_loss_launch, reference, self_attentive_launch
from remi_fast.kernels.negatives import sample_negatives
from remi_fast.models.comirec_sa import SelfAttentiveExtractor
from remi_fast.models.recommender import make_model
from remi_fast.training import checkpoint, device_step
from remi_fast.training import objective as objective_module
from remi_fast.training.device_step import DeviceStep
from remi_fast.training.step import TrainingStep
from tests.device import DEVICE

ITEMS, DIM, BATCH, HISTORY, SEED, RATE = 30, 4, 3, 4, 1, 0.01
USERS = 9


def sequences():
    generator = np.random.default_rng(0)
    lengths = generator.integers(6, 12, USERS)
    ends = np.cumsum(lengths)
    items = generator.integers(1, ITEMS, ends[-1], dtype=np.int32)
    return items, np.arange(USERS, dtype=np.int32), np.stack([ends - lengths, ends], axis=1)


DRAWING = {"batch_size": BATCH, "max_history": HISTORY, "seed": SEED, "min_history": 1}
COUNTS = torch.arange(ITEMS) + 1


def config(backend, loss=None, model=None, optim=None, **train):
    train = {"batch_size": BATCH, "steps": 500, "seed": SEED} | train
    return Config(
        model=ModelConfig(dim=DIM, num_interests=2, max_history=HISTORY, **(model or {})),
        loss=LossConfig(**{"num_negatives": 5, "rr_lambda": 0.5} | (loss or {})),
        optim=OptimConfig(lr=RATE, **(optim or {})),
        train=TrainConfig(backend=backend, **train),
    )


def made(backend, loss=None, model=None, **others):
    """A TrainingStep before its first step."""
    settings = config(backend, loss, model, **others)
    through = settings.loss.rr_lambda > 0
    fresh = make_model(
        settings.model, ITEMS, seed=SEED, through_routing=through, backend=backend
    ).to(DEVICE if backend == "triton" else "cpu")
    return TrainingStep(fresh, settings, COUNTS)


def on_device(loss=None, model=None, steps_a_replay=4, **others):
    step = made("triton", loss, model, **others)
    batches = DeviceBatchLoader(*sequences(), device=DEVICE, **DRAWING)
    return step, DeviceStep(step, batches, steps_a_replay=steps_a_replay)


def by_reference(count, loss=None, model=None, **others):
    step = made("reference", loss, model, **others)
    with BatchLoader(*sequences(), threads=1, **DRAWING) as loader:
        batches = [loader.batch(number) for number in range(count)]
    losses = [step(number, x.history, x.length, x.target) for number, x in enumerate(batches)]
    return step, losses, batches


def bits(step):
    """All state, as it is, and the number of steps."""
    state = step.table_optimizer.state_dict()
    tensors = [state[name] for name in ("exp_avg", "exp_avg_sq", "stamp")]
    tensors += step.model.state_dict().values()
    for dense in step.dense_optimizer.state.values():
        tensors += [dense["exp_avg"], dense["exp_avg_sq"], dense["step"]]
    return [x.detach().cpu().clone().view(torch.int32) for x in tensors], state["step"]


def same(one, other):
    return one[1] == other[1] and all(
        torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True)
    )


def tensors(step):
    """Item table, up to date, and the extractor's weights."""
    weights = [x.detach().cpu().clone() for x in step.model.extractor.parameters()]
    return [step.model.rows(0, ITEMS).cpu(), *weights]


@pytest.mark.parametrize(
    "loss, model",
    [
        ({"rr_lambda": 0.0, "beta": 0.0}, {}),
        ({"mask_hits": True, "detach_weights": True}, {}),
        ({"beta": 2.0, "beta_warmup": 3}, {}),
        ({"replacement": False}, {}),
        ({"sampler": "log-uniform"}, {}),
        ({"sampler": "popularity"}, {}),
        ({"sampler": "in-batch"}, {}),
        ({"sampler": "mixed"}, {}),
        ({"sampler": "full"}, {}),
        ({}, {"name": "comirec-dr"}),
        ({"rr_lambda": 0.0}, {"name": "comirec-dr"}),
    ],
    ids=lambda x: "-".join(map(str, x.values())) or "default",
)
def test_steps_are_those_of_the_reference(loss, model):
    step, device = on_device(loss, model)
    losses = device.advance(5)
    other, expected, _ = by_reference(5, loss, model)
    for mine, its in zip(losses, expected, strict=True):
        assert dataclasses.astuple(mine) == pytest.approx(
            dataclasses.astuple(its), rel=2e-5, abs=1e-6
        )
    for mine, its in zip(tensors(step), tensors(other), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=RATE * 1e-3)


@pytest.mark.parametrize("loss", [{}, {"name": "gbce", "beta": 0.0}], ids=["ihn", "gbce"])
def test_the_extractor_s_kernel_chooses_the_interest(monkeypatch, loss):
    """Of either loss, whose steps the host may make, too: no operation has all interests."""
    step, (_, expected, batches) = made("triton", loss), by_reference(3, loss)
    monkeypatch.setattr(SelfAttentiveExtractor, "forward", None)
    for number, (batch, its) in enumerate(zip(batches, expected, strict=True)):
        mine = step(number, *(x.to(DEVICE) for x in (batch.history, batch.length, batch.target)))
        assert dataclasses.astuple(mine) == pytest.approx(dataclasses.astuple(its), rel=2e-5)


@pytest.mark.parametrize(
    "backend, loss", [("native", {}), ("triton", {"selection": "soft", "selection_tau": 1.0})]
)
def test_the_loss_chooses_on_the_cpu_and_by_chance(monkeypatch, backend, loss):
    monkeypatch.setattr(SelfAttentiveExtractor, "select", None)
    step, (_, expected, batches) = made(backend, loss), by_reference(1, loss)
    batch, device = batches[0], step.model.table.weight.device
    mine = step(0, *(x.to(device) for x in (batch.history, batch.length, batch.target)))
    assert dataclasses.astuple(mine) == pytest.approx(dataclasses.astuple(expected[0]), rel=2e-5)


def exact(batches):
    """Losses, item table and weights of the same steps in float64, by autograd and dense Adam."""
    start = made("reference")
    parameters = start.model.extractor.parameters()
    weights = [start.model.table.weight, *parameters]
    table, *others = (x.detach().double().clone().requires_grad_() for x in weights)
    optimizer = torch.optim.Adam([table, *others], lr=RATE)
    losses = []
    for number, batch in enumerate(batches):
        target = batch.target.long()
        negatives = sample_negatives(5, ITEMS, seed=SEED, step=number)
        interests, routing = reference.self_attentive_extractor(
            table[batch.history.long()], batch.length, *others
        )
        query, _ = reference.select_interest(interests, table[target])
        ihn = reference.ihn_loss(query, table[target], table[negatives], beta=1.0)
        rr = reference.routing_regularizer(routing, DIM)
        total = ihn.mean() + 128 * 0.5 * rr.mean()
        optimizer.zero_grad()
        total.backward()
        table.grad[0] = 0
        optimizer.step()
        losses.append(total.item())
    return losses, [table, *others]


def test_the_error_budget_of_many_steps():
    """No more than twice the error that PyTorch's own float32 steps have."""
    step, device = on_device()
    losses = device.advance(12)
    other, its_losses, batches = by_reference(12)
    exact_losses, exact_tensors = exact(batches)
    error = max(abs(a.total - b) for a, b in zip(losses, exact_losses, strict=True))
    budget = max(abs(a.total - b) for a, b in zip(its_losses, exact_losses, strict=True))
    assert error <= 2 * budget + 1e-6
    for mine, its, exactly in zip(tensors(step), tensors(other), exact_tensors, strict=True):
        budget = (its.double() - exactly).abs().max().item()
        assert (mine.double() - exactly).abs().max().item() <= 2 * budget + 1e-7


@pytest.fixture(scope="module")
def seven_steps():
    """State and losses of seven steps that were launched one by one."""
    step, device = on_device(steps_a_replay=100)
    losses = device.advance(7)
    return bits(step), losses


@pytest.mark.parametrize(
    "steps_a_replay, parts", [(100, [7]), (1, [7]), (3, [7]), (4, [2, 5]), (2, [1, 1, 5])]
)
def test_the_same_bits_however_steps_are_cut(seven_steps, steps_a_replay, parts):
    step, device = on_device(steps_a_replay=steps_a_replay)
    losses = [loss for part in parts for loss in device.advance(part)]
    assert same(bits(step), seven_steps[0]) and losses == seven_steps[1]


def test_another_seed_is_another_training(seven_steps):
    step = made("triton")
    batches = DeviceBatchLoader(*sequences(), device=DEVICE, **DRAWING | {"seed": 2})
    assert DeviceStep(step, batches).advance(1) != seven_steps[1][:1]


def test_steps_with_a_growing_beta_are_made_one_by_one(monkeypatch):
    """And those after them together."""
    launched = []
    whole = DeviceStep._launch_several

    def several(self, steps, beta):
        launched.append((self._optimizer.steps_taken, steps, beta))
        whole(self, steps, beta)

    monkeypatch.setattr(DeviceStep, "_launch_several", several)
    step, device = on_device({"beta_warmup": 3}, steps_a_replay=3)
    device.advance(2)
    device.advance(5)
    growing = [(1, 1, 0.0), (2, 1, 1 / 3), (3, 1, 2 / 3)]
    warm_up = (2, 3, 1.0)
    assert launched == [*growing[:2], warm_up, growing[2], (6, 3, 1.0), (7, 1, 1.0)]
    single, alone = on_device({"beta_warmup": 3}, steps_a_replay=100)
    alone.advance(7)
    assert same(bits(step), bits(single))


@pytest.mark.parametrize("steps_a_replay, parts", [(100, [7]), (3, [1, 6])])
def test_the_same_bits_by_batches_of_the_host(seven_steps, steps_a_replay, parts):
    """For data that do not fit the device."""
    step, loader = made("triton"), BatchLoader(*sequences(), threads=1, **DRAWING)
    batches = UploadedBatches(loader, torch.device(DEVICE))
    device = DeviceStep(step, batches, steps_a_replay=steps_a_replay)
    losses = [loss for part in parts for loss in device.advance(part)]
    device.close()
    assert same(bits(step), seven_steps[0]) and losses == seven_steps[1]


def test_no_more_steps_than_losses_are_kept(monkeypatch, seven_steps):
    monkeypatch.setattr(device_step, "_READ_AT_ONCE", 4)
    step, device = on_device()
    losses = [device.advance(most) for most in (7, 3)]
    assert [len(x) for x in losses] == [4, 3]
    assert sum(losses, []) == seven_steps[1] and same(bits(step), seven_steps[0])


@pytest.mark.parametrize("steps", [0, 3])
def test_a_saved_state_goes_on_with_the_same_bits(seven_steps, tmp_path, steps):
    step, device = on_device()
    if steps:
        device.advance(steps)
    checkpoint.save_training_state(tmp_path / "state", step, {"step": steps})
    other, resumed = on_device()
    assert checkpoint.restore_training_state(tmp_path / "state", other) == {"step": steps}
    losses = resumed.advance(7 - steps)
    assert losses == seven_steps[1][steps:] and same(bits(other), seven_steps[0])


def touched(step):
    """A row that the step reads."""
    with BatchLoader(*sequences(), threads=1, **DRAWING) as loader:
        return int(loader.batch(step).target[1])


def in_a_row(step, number, bad, monkeypatch):
    step.model.table.weight[touched(number), 2] = bad
    return f"item table: weight of row {touched(number)}: got {bad} in column 2"


def in_a_moment(step, number, bad, monkeypatch):
    step.table_optimizer.state_dict()["exp_avg_sq"][touched(number), 1] = bad
    return f"item table: exp_avg_sq of row {touched(number)}: got {bad} in column 1"


def in_a_dense_weight(step, number, bad, monkeypatch):
    step.model.extractor.w2.detach()[3, 1] = bad
    return f"extractor: weight w2: got {bad} in row 3, column 1"


def in_a_dense_moment(step, number, bad, monkeypatch):
    weight = step.model.extractor.w1
    step.dense_optimizer.state[weight]["exp_avg"][1, 5] = bad
    return f"extractor: exp_avg of w1: got {bad} in row 1, column 5"


def in_the_loss(step, number, bad, monkeypatch):
    whole = objective_module.multi_interest_ihn_loss_rows
    sample = torch.tensor([2], device=DEVICE)

    def broken(*arguments, **options):
        ihn, chosen, rr = whole(*arguments, **options)
        return ihn.index_fill(0, sample, bad), chosen, rr

    monkeypatch.setattr(objective_module, "multi_interest_ihn_loss_rows", broken)
    return f"the loss is {bad} .*ihn of sample 2 is {bad}"


def in_a_gradient(step, number, bad, monkeypatch):
    whole = objective_module.multi_interest_ihn_loss_rows
    place = torch.zeros(BATCH, DIM, dtype=torch.bool, device=DEVICE)
    place[1, 3] = True

    def broken(interests, target, *others, **options):
        target.register_hook(lambda gradient: gradient.masked_fill(place, bad))
        return whole(interests, target, *others, **options)

    monkeypatch.setattr(objective_module, "multi_interest_ihn_loss_rows", broken)
    return f"item table: gradient of row {touched(number)}: got {bad} in column 3"


PLACES = in_a_row, in_a_moment, in_a_dense_weight, in_a_dense_moment, in_the_loss, in_a_gradient


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("steps_a_replay, bad", [(2, math.nan), (100, math.inf)])
def test_from_a_bad_step_on_nothing_is_updated(monkeypatch, place, steps_a_replay, bad):
    """Of steps that are launched at once, none changes anything, and the first is named."""
    step, device = on_device(steps_a_replay=steps_a_replay)
    twin, its = on_device(steps_a_replay=100)
    device.advance(1)
    its.advance(1)
    text = place(step, 1, bad, monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        place(twin, 1, bad, patch)  # the same state; no more of its steps are made
    twin.model.table(torch.arange(ITEMS, device=DEVICE))  # as those of the step are
    with pytest.raises(NonFiniteError, match=f"step 1: {text}"):
        device.advance(3)
    step.model.table(torch.arange(ITEMS, device=DEVICE))
    assert same(bits(step), bits(twin)) and bits(step)[1] == 1


def test_a_bad_step_in_the_midst_of_others(monkeypatch):
    """Those before it were made; it is named by its number, and told of once they are read."""
    whole = objective_module.multi_interest_ihn_loss_rows
    step, device = on_device(steps_a_replay=100)
    number = step.table_optimizer.step_on_device

    def broken(*arguments, **options):
        ihn, chosen, rr = whole(*arguments, **options)
        return torch.where(number >= 2, torch.nan, ihn), chosen, rr

    monkeypatch.setattr(objective_module, "multi_interest_ihn_loss_rows", broken)
    with pytest.raises(NonFiniteError, match="step 2: the loss is nan"):
        device.advance(4)
    monkeypatch.undo()
    twin, its = on_device(steps_a_replay=100)
    its.advance(2)
    for one in (step, twin):
        one.model.table(torch.arange(ITEMS, device=DEVICE))
    assert same(bits(step), bits(twin)) and step.table_optimizer.steps_taken == 2


def dtypes(arguments):
    """What a launch multiplies in, by its arguments."""
    problems = [x.dtype for x in arguments if isinstance(x, ihn_loss_launch.Problem)]
    return problems or [x for x in arguments if isinstance(x, torch.dtype)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_products_are_made_as_asked(monkeypatch, precision):
    """In both passes; the interpreter rounds nothing. What torch was told before holds again."""
    asked = []

    def watch(owner, name):
        whole = getattr(owner, name)

        def noting(*arguments, **options):
            asked.append((torch.get_float32_matmul_precision(), *dtypes(arguments)))
            return whole(*arguments, **options)

        monkeypatch.setattr(owner, name, noting)

    watch(ihn_loss_launch, "forward")
    watch(ihn_loss_launch, "backward_negatives")
    watch(self_attentive_launch, "select")
    watch(self_attentive_launch, "backward")
    before = torch.get_float32_matmul_precision()
    step, device = on_device(precision=precision)
    device.advance(1)
    expected = {"fp32": (before, torch.float32), "tf32": ("high", torch.float32)}
    assert asked == 4 * [expected.get(precision, (before, torch.bfloat16))]
    assert torch.get_float32_matmul_precision() == before
    assert {x.dtype for x in tensors(step)} == {torch.float32}
    assert not torch.is_autocast_enabled(DEVICE)


def put_into(step, other):
    """The state of a step of the device, in the reference's."""
    other.model.load_state_dict(step.model.state_dict())
    state = step.table_optimizer.state_dict()
    other.table_optimizer.load_state_dict(state)
    if step.dense_optimizer.state:
        other.dense_optimizer.load_state_dict(copy.deepcopy(step.dense_optimizer.state_dict()))


def test_each_step_is_the_reference_s_from_the_same_state(at_scale):
    """No error adds up from step to step: each may have that of its own arithmetic only."""
    steps = 1000 if DEVICE == "cuda" else at_scale(6, 60)
    step, device = on_device(steps_a_replay=1, steps=steps)
    other = made("reference")
    loader = BatchLoader(*sequences(), threads=1, **DRAWING)
    with loader:
        for number in range(steps):
            put_into(step, other)
            before = tensors(step)
            (loss,) = device.advance(1)
            batch = loader.batch(number)
            expected = other(number, batch.history, batch.length, batch.target)
            assert dataclasses.astuple(loss) == pytest.approx(
                dataclasses.astuple(expected), rel=2e-6, abs=1e-7
            )
            for mine, its, old in zip(tensors(step), tensors(other), before, strict=True):
                error, moved = (mine - its).norm(), (its - old).norm()
                assert error <= 1e-3 * moved + RATE * 1e-4


def test_rows_are_not_caught_up_while_the_guard_is_held():
    step, device = on_device(steps_a_replay=100)
    device.advance(3)
    before, every = bits(step), torch.arange(ITEMS, device=DEVICE)
    device._guard.hold(True)
    assert torch.equal(step.model.table(every), step.model.table.weight)
    assert same(bits(step), before)
    device._guard.hold(False)
    step.model.table(every)
    assert not same(bits(step), before)


def test_what_a_capture_asks_of_cuda(monkeypatch):
    """Without a GPU: warm-up steps on a stream of their own, then the steps of a replay."""
    step, device = on_device(steps_a_replay=3)
    told = []

    class Stream:
        def __init__(self, name="a stream"):
            self.name = name

        def wait_stream(self, other):
            told.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def within(what):
        told.append(f"in {getattr(what, 'name', what)}")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "graph", within)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "a graph")
    monkeypatch.setattr(device, "_launch_several", lambda n, beta: told.append(f"{n} of {beta}"))
    assert device._captured() == "a graph"
    assert told == [
        "a stream waits for main",
        "in a stream",
        "3 of 1.0",
        "main waits for a stream",
        "in a graph",
        "3 of 1.0",
    ]
