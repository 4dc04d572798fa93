"""Exact top-k search against its formula: the same ids but for near-ties, settled in float64."""

import os
import subprocess
import sys

import pytest
import torch

from remi_fast.kernels import interest_search as module
from remi_fast.kernels.interest_search import TopK, interest_search
from remi_fast.kernels.native import C
from tests.device import DEVICE

PIECES = {"one": 10**6, "small": 7, "single rows": 1, "as lanes": 32}


def make(users, interests, items, dim, *, whole=False, scale=1.0, num_seen=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(users, interests, dim, generator=generator) * scale
    vectors = torch.randn(items, dim, generator=generator) * scale
    if whole:  # exact sums, many equal scores
        queries, vectors = (queries * 2).round(), vectors.round()
    seen = torch.randint(0, items + 1, (users, num_seen), generator=generator)
    return queries, vectors, seen


def run(queries, vectors, k, seen, backend, piece=10**6):
    where = DEVICE if backend == "tiled" else "cpu"
    queries, vectors, seen = (x.to(where) for x in (queries, vectors, seen))
    found = interest_search(queries, vectors.split(piece), k, seen=seen, backend=backend)
    return TopK(*(x.cpu() for x in found))


both = pytest.mark.parametrize("backend", ["native", "tiled"])


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("k", [1, 9, 45])
@pytest.mark.parametrize(
    "shape",  # users, interests, items, dim
    [(1, 1, 1, 1), (1, 4, 33, 3), (7, 3, 90, 5), (9, 1, 64, 8), (3, 16, 70, 4), (5, 5, 31, 33)],
)
def test_whole_numbers_are_found_as_the_formula_finds_them(shape, k, pieces):
    """Bit for bit, with ties of scores and of interests, and with seen items."""
    queries, vectors, seen = make(*shape, whole=True, num_seen=6)
    found = run(queries, vectors, k, seen, "native", PIECES[pieces])
    for ours, truth in zip(found, run(queries, vectors, k, seen, "reference"), strict=True):
        assert torch.equal(ours, truth)


@pytest.mark.parametrize("pieces", ["one", "small", "as lanes"])
@pytest.mark.parametrize("scores_at_once", [1, 100, 1 << 27])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 90, 5), (9, 1, 900, 8), (3, 16, 70, 4)])
def test_tiles_of_any_size_find_the_same(shape, scores_at_once, pieces, monkeypatch):
    """Bit for bit but for the ids of equal scores at the end, with groups of every size."""
    monkeypatch.setattr(module, "SCORES_AT_ONCE", scores_at_once)
    queries, vectors, seen = make(*shape, whole=True, num_seen=6)
    truth = run(queries, vectors, 9, seen, "reference")
    for group in (1, 3, 64):
        monkeypatch.setattr(module, "_GROUP", group)
        found = run(queries, vectors, 9, seen, "tiled", PIECES[pieces])
        assert torch.equal(found.scores, truth.scores)
        settled = truth.scores > truth.scores[:, -1:]
        for ours, expected in zip(found, truth, strict=True):
            assert torch.equal(ours[settled], expected[settled])
        scores, interest = torch.einsum("nkd,id->nki", queries, vectors).max(dim=1)
        there = found.ids > 0
        assert torch.equal(there, truth.ids > 0)
        place = (found.ids - 1).clamp(min=0)
        assert torch.equal(scores.gather(1, place)[there], found.scores[there])
        assert torch.equal(interest.gather(1, place)[there], found.interest[there])
        for ids, unseen in zip(found.ids, seen, strict=True):
            chosen = ids[ids > 0].tolist()
            assert len(set(chosen)) == len(chosen) and not set(chosen) & set(unseen.tolist())


@both
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(33, 4, 3000, 64), (20, 3, 500, 200)])
def test_float32_error_budget(shape, scale, backend):
    queries, vectors, seen = make(*shape, scale=scale)
    truth = run(queries.double(), vectors.double(), 20, seen, "reference")
    ours = run(queries, vectors, 20, seen, backend)
    eager = run(queries, vectors, 20, seen, "reference")
    exact = torch.einsum("nkd,nhd->nkh", vectors.double()[ours.ids - 1], queries.double()).amax(2)
    error = (ours.scores - exact).abs().max()
    assert error <= 2 * (eager.scores - truth.scores).abs().max()
    assert (exact - truth.scores).abs().max() <= 2 * error, "another item, not a near-tie"
    assert (ours.ids == truth.ids).double().mean() > 0.999


@both
def test_peaked_scores(backend):
    queries, vectors, seen = make(6, 2, 400, 8)
    vectors[100] *= 1e6
    queries[:, 0] = vectors[100]
    found = run(queries, vectors, 5, seen, backend)
    assert (found.ids[:, 0] == 101).all() and (found.interest[:, 0] == 0).all()


@both
def test_what_is_not_a_number_is_not_retrieved(backend):
    queries, vectors, seen = make(3, 2, 50, 4)
    vectors[7] = torch.nan
    vectors[9, :] = torch.inf
    found = run(queries.abs(), vectors, 10, seen, backend)
    assert (found.ids != 8).all() and (found.ids[:, 0] == 10).all()
    assert (run(torch.full_like(queries, torch.nan), vectors, 5, seen, backend).ids == 0).all()


@both
@pytest.mark.parametrize("users, items", [(0, 5), (4, 0)])
def test_nobody_and_nothing(users, items, backend):
    queries, vectors, seen = make(users, 2, items, 3)
    found = run(queries, vectors, 4, seen[:, :0], backend)
    assert found.ids.shape == (users, 4) and (found.ids == 0).all()
    assert (found.scores == -torch.inf).all()


@both
def test_everything_seen(backend):
    queries, vectors, _ = make(3, 2, 40, 4)
    seen = torch.arange(1, 41).expand(3, 40)
    assert (run(queries, vectors, 4, seen, backend).ids == 0).all()


@both
def test_not_contiguous(backend):
    queries, vectors, seen = make(5, 3, 70, 6, num_seen=4)
    expected = run(queries, vectors, 9, seen, backend)
    spread = torch.stack([vectors, vectors], 2)[:, :, 0]
    turned = queries.transpose(0, 1).contiguous().transpose(0, 1)
    assert not spread.is_contiguous() and not turned.is_contiguous()
    found = run(turned, spread, 9, torch.stack([seen, seen], 2)[..., 0], backend)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_of_equal_scores_the_smaller_ids_come_first():
    """From a tile to the next, too; at the end of the list any of them will do."""
    queries, vectors = torch.ones(1, 1, 2), torch.ones(300, 2)
    found = run(queries, vectors, 9, torch.zeros(1, 0, dtype=torch.int64), "tiled", 100)
    assert torch.equal(found.ids, found.ids.sort().values) and (found.ids > 0).all()


def test_same_bits_for_any_threads_and_pieces():
    queries, vectors, seen = make(700, 4, 1500, 64, num_seen=3)
    results = []
    for threads, piece in ((1, 10**6), (2, 10**6), (7, 100), (16, 33), (2, 33)):
        C.set_num_threads(threads)
        results.append(run(queries, vectors, 50, seen, "native", piece))
    C.set_num_threads(0)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("level", ["plain", "avx2"])
def test_other_instruction_sets(level):
    script = (
        "import torch; from tests.kernels.test_interest_search import make, run\n"
        "for shape in ((7, 3, 90, 5), (9, 4, 300, 16)):\n"
        "    problem = make(*shape, whole=True, num_seen=6)\n"
        "    queries, vectors, seen = problem\n"
        "    ours, truth = (run(queries, vectors, 9, seen, b) for b in ('native', 'reference'))\n"
        "    assert all(torch.equal(a, b) for a, b in zip(ours, truth)), shape\n"
        "print('equal')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"REMI_FAST_SIMD": level, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "equal" in done.stdout, done.stderr


def test_errors():
    queries, vectors, seen = make(2, 2, 5, 3)
    with pytest.raises(TypeError, match="got interests torch.float64, expected float32"):
        run(queries.double(), vectors.double(), 3, seen, "native")
    with pytest.raises(ValueError, match="got backend 'fast', expected one of"):
        run(queries, vectors, 3, seen, "fast")
    for backend in ("native", "tiled"):
        with pytest.raises(ValueError, match="k: (got .*, )?expected 1 <= k"):
            run(queries, vectors, 0, seen, backend)
        with pytest.raises(ValueError, match="rows: expected shape|rows: got shape"):
            run(queries, vectors[:, :2], 3, seen, backend)
        with pytest.raises(ValueError, match="seen: expected shape|seen: got shape .*, expected"):
            run(queries, vectors, 3, seen[:1], backend)
    search = C.InterestSearch(queries.numpy(), 3, seen.numpy())
    search.add(vectors.numpy(), 1)
    with pytest.raises(ValueError, match="ids that go up"):
        search.add(vectors.numpy(), 5)
    with pytest.raises(ValueError, match="ids below"):
        search.add(vectors.numpy(), 2**31 - 3)
