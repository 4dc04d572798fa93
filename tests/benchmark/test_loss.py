"""`remi-fast bench loss`: its contestants compute the same, and one that does not is left out."""

import statistics
import weakref
from functools import partial

import pytest
import torch

from remi_fast.benchmark import loss, loss_contestants
from remi_fast.benchmark.loss import compare, error, make_run
from remi_fast.benchmark.loss_contestants import (
    Formula,
    Size,
    contestants,
    make_inputs,
    truth,
)
from remi_fast.benchmark.turns import PLAIN, REMI, Contestant
from remi_fast.errors import BenchmarkError, ConfigError

CPU = torch.device("cpu")
FORMULAS = {"PyTorch tiles", "published", "autograd", "autograd, plain"}
ELSEWHERE = {"Liger, plain", "autograd, compiled", "cut-cross-entropy, plain"}
SIZE = Size(4, 8)


def compared(size=SIZE, peers="eager"):
    return compare(size, "fp32", CPU, peers=peers, rounds=3, seconds=0.001)


@pytest.mark.parametrize("catalogue", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_all_compute_what_they_are_compared_in(catalogue, beta):
    size = Size(4, 8, beta=beta, catalogue=catalogue)
    inputs = make_inputs(size, CPU, torch.float32)
    found = contestants(size, "eager")
    assert found.keys() == {REMI, PLAIN} | FORMULAS - ({"published"} if catalogue else set())
    for name, formula in found.items():
        assert formula.plain == ("plain" in name)
        assert error(make_run(formula, inputs)(), truth(formula, inputs)) < 1e-5, name


def test_a_case_says_what_was_measured():
    case = compared(Size(3, 6, dim=16, interests=2, beta=0.5))
    assert case["contestants"].keys() == {REMI, PLAIN} | FORMULAS and case["cannot"] == {}
    sizes = [case[name] for name in ("batch_size", "negatives", "dim", "interests", "beta")]
    assert sizes == [3, 6, 16, 2, 0.5] and case["precision"] == "fp32"
    for row in case["contestants"].values():
        assert row["ms"] == pytest.approx(statistics.median(row["rounds"]), rel=1e-4)
        assert 0 <= row["relative_error"] < 1e-5 and not row["captured"]
        assert "share_of_floor" not in row  # of a GPU
    assert compared(peers="none")["contestants"].keys() == {REMI, PLAIN}


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)  # takes half a minute
    monkeypatch.setitem(loss_contestants.__dict__, "cut_cross_entropy", not_there)
    together, take_turns = [], loss.take_turns
    monkeypatch.setattr(
        loss, "take_turns", lambda runs, *a: together.append(list(runs)) or take_turns(runs, *a)
    )
    case = compared(peers="all")
    assert [set(names) for names in together] == [
        {REMI, PLAIN} | FORMULAS,
        {REMI, "autograd, compiled"},
    ]
    assert case["contestants"].keys() == {REMI, PLAIN, "autograd, compiled"} | FORMULAS
    assert case["cannot"] == {
        "Liger, plain": "its kernels are for GPUs only",
        "cut-cross-entropy, plain": "cut_cross_entropy is not installed",
    }


def not_there(inputs):
    raise ModuleNotFoundError("No module named 'cut_cross_entropy'", name="cut_cross_entropy")


def test_a_peer_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(loss_contestants, "published", lambda x: 1.001 * loss_contestants.ours(x))
    case = compared()
    assert "published" not in case["contestants"]
    assert case["cannot"]["published"].startswith("published: got an error of 1.0e-03, expected")


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_ours_has_to_be_right(monkeypatch, factor):
    whole = loss_contestants.ours
    monkeypatch.setattr(loss_contestants, "ours", lambda x: factor * whole(x))
    with pytest.raises(BenchmarkError, match="remi-fast, REMI: got an error of"):
        compared(peers="none")


def test_the_error_is_that_of_the_worst_gradient():
    exact = [torch.ones(2), torch.tensor([1.0, 100.0]), torch.zeros(1)]
    got = [torch.ones(2), torch.tensor([1.0, 101.0]), torch.ones(1)]
    assert error(got, exact) == pytest.approx(0.01)
    got[1][0] = torch.nan
    assert error(got, exact) != error(got, exact)


def makers(names, calls):
    """Of contestants who note that they are made, that they run, and that they are gone."""

    def make(name):
        calls.append(f"made: {name}")
        run = partial(calls.append, name)
        weakref.finalize(run, calls.append, f"gone: {name}")
        return Contestant(run)

    return {name: partial(make, name) for name in names}


def test_compiled_code_has_a_turn_of_its_own_on_a_cpu():
    """Its OpenMP would slow the others down."""
    calls = []
    names = [REMI, "autograd", "autograd, compiled"]
    formulas = {name: Formula(None, compiled="compiled" in name) for name in names}
    begin_anew = partial(loss._begin_anew, formulas, 0, CPU)
    table, _ = loss._in_turns(makers(names, calls), begin_anew, rounds=1, seconds=0)
    calls = [call for call in calls if call in names]
    assert calls == [n for n in (*names[:2], *names[:2], REMI, names[2], REMI, names[2])
                     for _ in range(2)]  # fmt: skip
    assert list(table) == names


def test_who_leaves_no_memory_for_the_next_goes_before():
    """But for remi-fast, which all are compared with."""
    calls = []
    begin_anew = lambda there, name: name == "b"  # noqa: E731
    loss._in_turns(makers([REMI, "a", "b"], calls), begin_anew, rounds=1, seconds=0)
    told = [call for call in calls if ":" in call]
    made = [f"made: {REMI}", "made: a", "gone: a", "made: b"]
    assert told[:4] == made and set(told[4:]) == {"gone: b", f"gone: {REMI}"}
    assert calls.index("gone: a") > calls.index("a")


@pytest.mark.parametrize("free, expected", [(19, True), (20, False)])
def test_on_a_gpu_there_has_to_be_memory_for_another(monkeypatch, free, expected):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(loss, "available_memory", lambda device: free)
    assert loss._begin_anew({}, 10, torch.device("cuda"), [REMI, "a"], "b") == expected


def of_tiles(formula):
    return Formula(loss_contestants.tiles, plain=formula.plain)


def test_a_peer_without_memory_is_left_out(monkeypatch):
    def too_large(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loss_contestants, "autograd", too_large)
    monkeypatch.setattr(loss, "truth", lambda formula, x: make_run(of_tiles(formula), x)())
    case = compared()
    assert case["cannot"]["autograd"] == "OutOfMemoryError: CUDA out of memory"
    assert {REMI, PLAIN, "PyTorch tiles", "published"} == case["contestants"].keys()


def test_the_floor_is_of_products_or_of_exponentials():
    size = Size(1024, 10_240, dim=64)
    pairs = 1024 * 10_240
    assert loss.floor_us(size, "fp32", REMI) == pytest.approx(1e6 * 10 * pairs * 64 / 131e12)
    few = Size(1024, 10_240, dim=16)
    assert loss.floor_us(few, "bf16", PLAIN) == pytest.approx(1e6 * 2 * pairs / 3.9e12)


def test_what_does_not_fit_is_refused():
    loss.check_memory(Size(128, 1280), CPU, "all")
    huge = Size(100_000, 1_000_000)
    with pytest.raises(ConfigError, match="--batch-size 100,000 with .* GiB, expected at most"):
        loss.check_memory(huge, CPU, "eager")
    loss.check_memory(huge, CPU, "none")  # no matrix of scores


def test_products_are_as_they_were_afterwards(monkeypatch):
    seen = []
    whole = loss_contestants.ours

    def ours(x):
        seen.append(torch.get_float32_matmul_precision())
        return whole(x)

    monkeypatch.setattr(loss_contestants, "ours", ours)
    before = torch.get_float32_matmul_precision()
    compare(SIZE, "tf32", CPU, peers="none", rounds=1, seconds=0.001)
    assert set(seen) == {"high"} and torch.get_float32_matmul_precision() == before
