"""`remi-fast bench eval`: whoever takes part finds the same items."""

import pytest
import torch

from remi_fast.benchmark import search
from remi_fast.benchmark.search import EXACT, check, compare, generated, matmul_and_topk, products
from remi_fast.errors import BenchmarkError, ConfigError

CPU = torch.device("cpu")
MATMUL, FAISS, ALONE = (
    "torch matmul and topk",
    "faiss IndexFlatIP, merged",
    "torch.mm of the scores alone",
)
K = 5


@pytest.fixture(scope="module")
def vectors():
    return generated(6, 300, interests=3, dim=8)


def compared(vectors, peers="all"):
    return compare(*vectors, K, peers=peers, rounds=2, seconds=0.001)


def test_a_case_says_what_was_measured(vectors):
    pytest.importorskip("faiss")
    case = compared(vectors)
    assert list(case["contestants"]) == [EXACT, MATMUL, FAISS, ALONE] and case["cannot"] == {}
    sizes = [case[name] for name in ("users", "items", "interests", "dim", "k")]
    assert sizes == [6, 300, 3, 8, K]
    for name, row in case["contestants"].items():
        assert row["users_per_s"] == pytest.approx(1e3 * 6 / row["ms"], abs=0.51)
        assert name == ALONE or row["ids_that_differ"] == row["worst_of_them"] == 0
    assert list(compared(vectors, "none")["contestants"]) == [EXACT]


def test_without_faiss_the_others_go_on(vectors, monkeypatch):
    def missing():
        raise ConfigError("approximate search needs the package faiss")

    monkeypatch.setattr(search, "load_faiss", missing)
    case = compared(vectors)
    assert list(case["contestants"]) == [EXACT, MATMUL, ALONE]
    assert case["cannot"] == {FAISS: "approximate search needs the package faiss"}


def test_a_peer_that_finds_others_is_not_timed(vectors, monkeypatch):
    whole = search.matmul_and_topk

    def one_too_low(interests, weight, k):
        found = whole(interests, weight, k + 1)
        return found[:, 1:] if interests.dtype == torch.float32 else found[:, :k]

    monkeypatch.setattr(search, "matmul_and_topk", one_too_low)
    case = compared(vectors)
    assert MATMUL not in case["contestants"] and EXACT in case["contestants"]
    assert case["cannot"][MATMUL].startswith("scores of the items found, and of ours: got an error")


def test_ours_has_to_be_right(vectors, monkeypatch):
    whole = search.search

    def other(interests, table, k):
        found = whole(interests, table, k + 1)
        return found._replace(ids=found.ids[:, 1:])

    monkeypatch.setattr(search, "search", other)
    with pytest.raises(BenchmarkError, match="scores of the items found, and of ours"):
        compared(vectors, "none")


def test_near_ties_are_no_error(vectors):
    interests, table = vectors
    exact = matmul_and_topk(interests, table.weight, K)
    table.weight[exact[0, 1]] = table.weight[exact[0, 0]]  # a tie
    exact = matmul_and_topk(interests, table.weight, K)
    swapped = exact[:, [1, 0, 2, 3, 4]]
    assert check(swapped, interests, table, search.TIE)["ids_that_differ"] == 0
    last = exact.clone()
    last[0, -1] = 299
    with pytest.raises(BenchmarkError):
        check(last, interests, table, search.TIE)


def test_matmul_and_topk_goes_in_blocks(vectors, monkeypatch):
    interests, table = vectors
    whole = matmul_and_topk(interests, table.weight, K)
    monkeypatch.setitem(search.SCORES_AT_ONCE, "cpu", 2 * 3 * 300)
    assert torch.equal(matmul_and_topk(interests, table.weight, K), whole)
    assert (whole > 0).all()  # padding is not found


def test_every_score_is_made_once(vectors, monkeypatch):
    interests, table = vectors
    monkeypatch.setitem(search.ITEMS_AT_ONCE, "cpu", 128)
    monkeypatch.setattr(search, "QUERIES_AT_ONCE", 7)
    made = []
    whole = torch.mm

    def mm(left, right, out):
        made.append(len(left) * right.shape[1])
        return whole(left, right, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    products(interests, table.weight)
    assert sum(made) == 6 * 3 * 300


def test_what_does_not_fit_is_refused():
    search.check_memory(64, 368_000, 4, 64, CPU)
    with pytest.raises(ConfigError, match="--num-items 1,000,000,000,000 and --users 64: vectors"):
        search.check_memory(64, 10**12, 4, 64, CPU)
