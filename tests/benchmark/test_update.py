"""`remi-fast bench update`: what is compared is Adam, and what is printed was measured."""

import pytest

from remi_fast.benchmark import fbgemm_peer, resources, update, update_contestants
from remi_fast.benchmark.update_contestants import DEFERRED, DIM, Update, id_stream
from remi_fast.errors import BenchmarkError, ConfigError
from remi_fast.optim import DeferredAdam

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
    least = case["floor"]["ms"][str(UPDATE)]
    for row in case["contestants"].values():
        assert row["share_of_floor"] == pytest.approx(least / row["ms"], abs=1e-4)
        assert row["rows_per_s"] == pytest.approx(1e3 * 62 / row["ms"], abs=0.51)


def test_catalogues_are_compared_with_one_another():
    updates = [Update(50, 2), Update(3000, 2, "zipf")]
    case = update.by_catalogue(updates, rounds=1, seconds=0.001)
    names = ["remi-fast, 50 items, uniform", "remi-fast, 3,000 items, zipf"]
    assert list(case["contestants"]) == names and case["items"] == [50, 3000]
    assert case["contestants"][names[0]]["ratio"] == 1
    for row, each in zip(case["contestants"].values(), updates, strict=True):
        least = case["floor"]["ms"][str(each)]
        assert row["share_of_floor"] == pytest.approx(least / row["ms"], abs=1e-4)


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
    update_contestants.deferred_adam(drawn)()
    gaps = update_contestants.WARM_STEP - stamps[0][1:]
    assert gaps.min() >= 0 and gaps.median() > 20 and (gaps < 3).any()
