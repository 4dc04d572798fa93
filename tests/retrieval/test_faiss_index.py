"""faiss as the engine: near the exact search by choice, and never a silent stand-in."""

import sys

import pytest
import torch

from remi_fast.errors import ConfigError
from remi_fast.models.item_table import ItemTable
from remi_fast.retrieval import faiss_index
from remi_fast.retrieval.faiss_index import FaissSearch, build, default_factory, recall_of
from remi_fast.retrieval.search import search


@pytest.fixture(scope="module")
def problem():
    """Clustered items and interests near them: (table, interests (300, 3, 16))."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(60, 16, generator=generator)
    table = ItemTable(5001, 16)
    noise = torch.randn(5000, 16, generator=generator)
    table.weight[1:] = centres[torch.arange(5000) % 60] + 0.4 * noise
    picked = torch.randint(0, 60, (300, 3), generator=generator)
    return table, centres[picked] + 0.3 * torch.randn(300, 3, 16, generator=generator)


@pytest.mark.parametrize("factory", ["Flat", "IVF64,Flat", "HNSW16", "IVF32,PQ4", "PCA8,Flat"])
def test_is_tuned_to_the_recall_that_is_promised(problem, factory):
    table, interests = problem
    engine = FaissSearch(table, factory)
    found = engine.search(interests, 20)
    exact = search(interests, table, 20)
    assert engine.recall >= 0.99 and recall_of(found.ids, exact.ids) >= 0.985
    assert "IVF" not in factory or engine.effort, "found without an effort, so nothing was tuned"
    scores = torch.einsum(
        "nhd,nkd->nkh", interests, table.read(found.ids.flatten()).view(300, 20, 16)
    )
    torch.testing.assert_close(found.scores, scores.amax(2))
    assert torch.equal(found.interest, scores.argmax(2))
    assert (found.scores.diff(dim=1) <= 0).all()
    assert all(len(row.unique()) == 20 for row in found.ids), "an item twice in a list"


def test_what_cannot_reach_it_is_told(problem, monkeypatch, caplog):
    table, interests = problem
    monkeypatch.setattr(FaissSearch, "_efforts", lambda self: [])
    engine = FaissSearch(table, "IVF64,Flat")
    engine.search(interests, 20)
    assert engine.recall < 0.99
    assert f"finds {engine.recall:.4f} of what exact search does" in caplog.text
    assert caplog.records[-1].levelname == "WARNING"


def test_flat_is_exact_with_seen_items_too(problem):
    table, interests = problem
    seen = search(interests, table, 5).ids
    seen = torch.nn.functional.pad(seen, (0, 2))
    found = FaissSearch(table, "Flat").search(interests, 10, seen)
    exact = search(interests, table, 10, seen)
    assert torch.equal(found.ids, exact.ids) and torch.equal(found.interest, exact.interest)


def test_seen_of_nobody_and_more_than_there_is():
    table = ItemTable(6, 4)
    interests = torch.randn(3, 2, 4)
    found = FaissSearch(table, "Flat").search(interests, 8, torch.zeros(3, 0, dtype=torch.int64))
    exact = search(interests, table, 8)
    assert torch.equal(found.ids, exact.ids)
    torch.testing.assert_close(found.scores, exact.scores)


def test_blocks_of_rescoring(problem, monkeypatch):
    table, interests = problem
    whole = FaissSearch(table, "IVF64,Flat").search(interests, 10)
    monkeypatch.setattr(faiss_index, "VALUES_AT_ONCE", 10_000)
    parts = FaissSearch(table, "IVF64,Flat").search(interests, 10)
    assert torch.equal(whole.ids, parts.ids)


@pytest.mark.parametrize("num_items", [2, 50, 40_000, 3_000_000])
def test_default(num_items):
    factory = default_factory(num_items)
    lists = int(factory.removeprefix("IVF").removesuffix(",Flat"))
    assert 1 <= lists <= max(1, num_items / 39) and lists <= 8 * num_items**0.5


@pytest.mark.parametrize("factory", ["nonsense", "IVF99999,Flat", "", "PQ7"])
def test_factory_strings_that_cannot_be(problem, factory):
    with pytest.raises(ConfigError, match=f"engine: got '{factory}', expected a factory string"):
        build(problem[0], factory)


@pytest.mark.parametrize(
    "error", [ImportError("no faiss"), RuntimeError("no CUDA"), OSError("x.so")]
)
def test_advice_where_faiss_cannot_be_imported(monkeypatch, error):
    class Broken:
        def find_spec(self, name, *_):
            if name == "faiss":
                raise error

    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ConfigError, match=rf"remi-fast\[faiss\]'`, got: {error}"):
        faiss_index.load_faiss()


def test_two_of_them_are_refused(monkeypatch):
    monkeypatch.setattr(faiss_index, "_is_there", lambda name: name != "faiss-gpu-cu12")
    with pytest.raises(ConfigError, match="faiss-cpu and faiss-gpu installed, which overwrite"):
        faiss_index.load_faiss()
