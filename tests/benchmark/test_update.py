"""`remi-fast bench update`: what is compared is Adam, and what is printed was measured."""

import pytest
import torch

from remi_fast.benchmark import fbgemm_peer, resources, update, update_contestants
from remi_fast.benchmark.turns import Contestant
from remi_fast.benchmark.update_contestants import DEFERRED, DIM, Update, id_stream
from remi_fast.errors import BenchmarkError, ConfigError
from remi_fast.models.item_table import ItemTable
from remi_fast.optim import DeferredAdam
from tests.device import DEVICE
from tests.training.test_no_synchronisation import ALLOWED, OnlyAllowed, as_on_a_gpu

__all__ = ["as_on_a_gpu"]  # a fixture
UPDATE = Update(60, 2)
TORCH = {"SparseAdam (not Adam)", "dense Adam, fused", "dense Adam, foreach"}
FBGEMM = "FBGEMM, Adagrad (no Adam on a CPU)"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(resources.COPIED, "cpu", 1 << 16)


@pytest.fixture
def no_fbgemm(monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'fbgemm_gpu'", name="fbgemm_gpu")

    monkeypatch.setattr(fbgemm_peer, "unavailable", lambda: "not there")
    monkeypatch.setattr(fbgemm_peer, "embedding", missing)


def test_a_case_says_what_was_measured(no_fbgemm):
    case = update.beside_peers(UPDATE, rounds=2, seconds=0.001)
    assert case["contestants"].keys() == {DEFERRED} | TORCH
    assert (case["batch_size"], case["items"], case["rows"]) == (2, 60, 62)
    assert 0 < case["checked"][DEFERRED] < 1e-4
    assert case["cannot"] == {FBGEMM: "fbgemm_gpu is not installed"}
    least = case["traffic"]["ms"][str(UPDATE)]
    for row in case["contestants"].values():
        assert row["traffic_by_time"] == pytest.approx(least / row["ms"], abs=1e-4)
        assert row["rows_per_s"] == pytest.approx(1e3 * 62 / row["ms"], abs=0.51)


def test_catalogues_are_compared_with_one_another():
    updates = [Update(50, 2), Update(3000, 2, "zipf")]
    case = update.by_catalogue(updates, rounds=1, seconds=0.001)
    names = ["remi-fast, 50 items, uniform", "remi-fast, 3,000 items, zipf"]
    assert list(case["contestants"]) == names and case["items"] == [50, 3000]
    assert case["contestants"][names[0]]["ratio"] == 1
    for row, each in zip(case["contestants"].values(), updates, strict=True):
        least = case["traffic"]["ms"][str(each)]
        assert row["traffic_by_time"] == pytest.approx(least / row["ms"], abs=1e-4)


def test_what_moves_is_counted_once_a_row():
    distinct = [len(ids.unique()) for ids, _ in zip(id_stream(UPDATE), range(32), strict=False)]
    expected = resources.table_traffic(62, sum(distinct) / 32, DIM)
    assert update.traffic(UPDATE) == pytest.approx(expected)


def test_an_update_that_is_not_adam_is_refused(monkeypatch):
    monkeypatch.setattr(DeferredAdam, "step", lambda self: None)
    with pytest.raises(BenchmarkError, match="DeferredAdam against torch.optim.Adam .* got an err"):
        update.beside_peers(UPDATE, rounds=1, seconds=0.001)


def test_a_peer_that_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(fbgemm_peer, "unavailable", lambda: None)
    monkeypatch.setattr(fbgemm_peer, "check", lambda weight, steps: 0.5)
    monkeypatch.setattr(update_contestants, "_fbgemm", lambda _: pytest.fail("was timed"))
    case = update.beside_peers(UPDATE, rounds=1, seconds=0.001)
    assert case["contestants"].keys() == {DEFERRED} | TORCH
    assert case["cannot"][FBGEMM].startswith("FBGEMM against its definition in float64: got an")


def test_what_does_not_fit_is_refused():
    update.check_memory([Update(368_000, 128)], "all")
    with pytest.raises(ConfigError, match="--num-items 100,000,000,000 with --peers none: all tab"):
        update.check_memory([Update(10**11, 128)], "none")


def test_the_state_is_that_of_a_long_training(monkeypatch):
    """Rows that are drawn often were touched lately, the others long ago."""
    drawn = Update(2000, 2, "zipf")
    stamps = []
    whole = DeferredAdam.load_state_dict

    def load(self, state):
        stamps.append(state["stamp"].double())
        whole(self, state)

    monkeypatch.setattr(DeferredAdam, "load_state_dict", load)
    update_contestants.deferred_adam(drawn).run()
    gaps = update_contestants.WARM_STEP - stamps[0][1:]
    assert gaps.min() >= 0 and gaps.median() > 20 and (gaps < 3).any()


ITEMS, ROWS = 40, 12


def on_device(batches):
    """DeferredAdam by the kernels of a GPU, at step 2, and gradients for it."""
    table = ItemTable(ITEMS, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    optimizer = DeferredAdam(table, backend="triton")
    gradients = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    for ids in batches[:2]:
        one_by_one(table, optimizer, ids, gradients)
    return table, optimizer, gradients


def one_by_one(table, optimizer, ids, gradients):
    table(ids).backward(gradients)
    optimizer.step()
    optimizer.zero_grad()


def batches_of_ids(count):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, ITEMS, (count, ROWS), generator=generator).to(DEVICE)


def bits(table, optimizer):
    state = optimizer.state_dict()
    tensors = [table.weight, state["exp_avg"], state["exp_avg_sq"], state["stamp"]]
    return [x.detach().cpu().contiguous().view(torch.int32).clone() for x in tensors], state["step"]


@pytest.mark.parametrize("by_graph", [True, False])
def test_steps_that_the_device_counts_have_the_bits_of_those_one_by_one(monkeypatch, by_graph):
    """What is launched to make a graph changes nothing, and ids are read where they are."""

    def captured(run, device):
        for _ in range(2):
            run()
        return run, True

    if by_graph and DEVICE == "cpu":
        monkeypatch.setattr(update_contestants, "captured", captured)
    ids = batches_of_ids(3)
    table, optimizer, gradients = on_device(ids)
    made = update_contestants.on_device(table, optimizer, ids.unbind(), gradients)
    assert made.steps == 3 and made.notes["captured"] == (by_graph or DEVICE == "cuda")
    made.run()
    ids.add_(1).clamp_(max=ITEMS - 1)
    made.run()
    twin, its, _ = on_device(batches_of_ids(3))
    first = batches_of_ids(3)
    for batch in [*first, *(first + 1).clamp(max=ITEMS - 1)]:
        one_by_one(twin, its, batch, gradients)
    mine, theirs = bits(table, optimizer), bits(twin, its)
    assert mine[1] == theirs[1] == 8 and optimizer.step_on_device.tolist() == [8]
    assert all(torch.equal(a, b) for a, b in zip(mine[0], theirs[0], strict=True))


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_nothing_that_a_graph_holds_waits(monkeypatch, waits):
    launched = []
    monkeypatch.setattr(
        update_contestants, "captured", lambda run, device: (launched.append(run) or run, False)
    )
    ids = batches_of_ids(2)
    table, optimizer, gradients = on_device(ids)
    update_contestants.on_device(table, optimizer, ids.unbind(), gradients)
    optimizer.schedule_steps([1e-3] * 4)
    launched[0]()  # warm up
    if waits:
        whole = DeferredAdam.step
        monkeypatch.setattr(DeferredAdam, "step", lambda self: ids.max().item() or whole(self))
    with OnlyAllowed(frozenset(ALLOWED)) as mode:
        if waits:
            with pytest.raises(AssertionError, match="is not known to run without waiting"):
                launched[0]()
            return
        launched[0]()
    assert any(name.startswith("aten.sort") for name, *_ in mode.seen)


def test_on_a_gpu_dense_adam_is_a_graph_and_sparse_adam_is_not(monkeypatch):
    """Of what a GPU does here only who asks for a graph, and how its time is told."""
    asked = []

    def captured(run, device):
        asked.append(device.type)
        return run, True

    monkeypatch.setattr(update_contestants, "captured", captured)
    monkeypatch.setattr(update_contestants, "id_batches", lambda _: batches_of_ids(3).unbind())
    monkeypatch.setattr(update_contestants, "gradients_of", lambda _: torch.ones(ROWS, DIM))
    embedding = torch.nn.Embedding
    monkeypatch.setattr(
        torch.nn, "Embedding", lambda *sizes, device, **options: embedding(*sizes, **options)
    )
    given = []
    adam = torch.optim.Adam

    def on_a_cpu(parameters, capturable, **options):
        given.append((capturable, *options))
        return adam(parameters, **options)

    monkeypatch.setattr(torch.optim, "Adam", on_a_cpu)
    makers = update_contestants.contestants(Update(ITEMS, 2, device="cuda"))
    made = {name: makers[name]() for name in TORCH}
    for each in made.values():
        each.run()
    steps = {name: (each.steps, each.notes["captured"]) for name, each in made.items()}
    assert steps == {
        "SparseAdam (not Adam)": (1, False),
        "dense Adam, fused": (3, True),
        "dense Adam, foreach": (3, True),
    }
    assert asked == ["cuda"] * 2 and sorted(given) == [(True, "foreach"), (True, "fused")]


def test_several_steps_of_a_call_are_timed_by_the_step(monkeypatch):
    def makers(_):
        return {
            DEFERRED: lambda: Contestant(lambda: None, 3, {"captured": True}),
            "other": lambda: Contestant(lambda: None, notes={"captured": False}),
        }

    monkeypatch.setattr(update, "contestants", makers)
    monkeypatch.setattr(update, "take_turns", lambda runs, *_: {name: [6.0] for name in runs})
    table = update.beside_peers(UPDATE, rounds=1, seconds=0)["contestants"]
    assert [(row["ms"], row["captured"]) for row in table.values()] == [(2, True), (6, False)]
