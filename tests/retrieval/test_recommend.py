"""Raw ids in, raw ids out, for users and items known and unknown."""

import logging
import sys

import polars as pl
import pytest
import torch

from remi_fast.config import ModelConfig
from remi_fast.errors import ConfigError, DataError
from remi_fast.models.recommender import make_model
from remi_fast.retrieval import recommend as module
from remi_fast.retrieval.recommend import Recommender

NAMES = ["pear", "apple", "plum", "fig", "kiwi", "lime"]


@pytest.fixture
def recommender():
    items = pl.DataFrame({"item_id": NAMES, "index": range(1, 7), "count": 1})
    model = make_model(ModelConfig(dim=8, max_history=3), 7, seed=0)
    return Recommender(model, items.sample(fraction=1, shuffle=True, seed=1))


def frame(rows, columns=("user_id", "item_id")):
    return pl.DataFrame(rows, schema=list(columns), orient="row")


def expected(recommender, names, k):
    ids = torch.tensor([[NAMES.index(n) + 1 for n in names] + [0] * (3 - len(names))])
    interests = recommender.model.interests(ids, torch.tensor([len(names)]))
    scores = (interests[0] @ recommender.model.rows(1, 7).T).amax(0)
    return [NAMES[i] for i in scores.argsort(descending=True)[:k]]


@pytest.mark.parametrize("at_once", [1, 1024])
def test_last_items_in_order_of_time(monkeypatch, recommender, at_once):
    monkeypatch.setattr(module, "USERS_AT_ONCE", at_once)
    rows = [
        ("b", "fig", 5),
        ("a", "lime", 3),
        ("b", "plum", 1),
        ("b", "pear", 9),
        ("b", "apple", 7),
    ]
    histories = frame(rows, ("user_id", "item_id", "timestamp"))
    got = recommender.recommend(histories, k=4)
    assert got.columns == ["user_id", "rank", "item_id", "score", "interest"]
    assert got["rank"].to_list() == [1, 2, 3, 4] * 2
    by_user = got.group_by("user_id", maintain_order=True).agg("item_id", "score")
    lists = dict(zip(by_user["user_id"], by_user["item_id"], strict=True))
    assert lists["b"].to_list() == expected(recommender, ["fig", "apple", "pear"], 4)
    assert lists["a"].to_list() == expected(recommender, ["lime"], 4)
    assert all(scores.is_sorted(descending=True) for scores in by_user["score"])


def test_without_times_the_order_of_the_rows_counts(recommender):
    got = recommender.recommend(frame([(1, "kiwi"), (2, "fig"), (1, "plum")]), k=2)
    first = got.filter(pl.col("user_id") == 1)["item_id"].to_list()
    assert first == expected(recommender, ["kiwi", "plum"], 2)


def test_unknown_items_are_ignored_with_a_warning(recommender, caplog):
    histories = frame([(1, "kiwi"), (1, "durian"), (2, "durian"), (1, "plum")])
    with caplog.at_level(logging.WARNING):
        got = recommender.recommend(histories, k=2)
    assert got["item_id"].to_list() == expected(recommender, ["kiwi", "plum"], 2)
    assert "2 of 4 interactions" in caplog.text and "get no recommendations: 1" in caplog.text


def test_nothing_known_and_missing_columns_are_errors(recommender):
    with pytest.raises(DataError, match=r"none of the 1 interactions .*item ids of type String"):
        recommender.recommend(frame([(1, "durian")]))
    with pytest.raises(DataError, match=r"no column 'item_id'.*columns found: 'user_id', 'item'\)"):
        recommender.recommend(frame([(1, "kiwi")], ("user_id", "item")))
    with pytest.raises(ValueError, match="k: got 0"):
        recommender.recommend(frame([(1, "kiwi")]), k=0)


def test_ids_are_cast_to_the_type_of_the_training_data(recommender):
    items = pl.DataFrame({"item_id": [70, 80, 90, 100, 110, 120], "index": range(1, 7)})
    numbers = Recommender(recommender.model, items)
    as_text = numbers.recommend(frame([(1, "110"), (1, "nonsense")]), k=3)
    as_number = numbers.recommend(frame([(1, 110)]), k=3)
    assert as_text.equals(as_number) and as_text.schema["item_id"] == pl.Int64


def test_exclude_seen_leaves_out_the_whole_history(recommender):
    rows = [(1, name) for name in NAMES[:4]]  # longer than max_history
    got = recommender.recommend(frame(rows), k=50, exclude_seen=True)
    assert set(got["item_id"]) == {"kiwi", "lime"}


def test_item_table_of_another_model(recommender):
    with pytest.raises(DataError, match="got 5 items, expected 6"):
        Recommender(recommender.model, recommender.item_table.head(5))


def lists(frame):
    grouped = frame.group_by("user_id", maintain_order=True).agg("item_id")
    return dict(zip(grouped["user_id"], grouped["item_id"].to_list(), strict=True))


HISTORIES = [(1, "kiwi"), (2, "fig"), (1, "plum")]


@pytest.mark.parametrize("chosen", [["fig", "lime", "kiwi"], pl.Series(["lime", "fig", "kiwi"])])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_filter_is_the_list_without_the_others(recommender, chosen, exclude_seen):
    histories = frame(HISTORIES)
    whole = recommender.recommend(histories, k=6, exclude_seen=exclude_seen)
    got = recommender.recommend(histories, k=6, exclude_seen=exclude_seen, filter=chosen)
    left = whole.filter(pl.col("item_id").is_in(["fig", "lime", "kiwi"]))
    same = ["user_id", "item_id", "score", "interest"]
    assert got.select(same).equals(left.select(same))
    assert got["rank"].to_list() == [
        r
        for n in left.group_by("user_id", maintain_order=True).len()["len"]
        for r in range(1, n + 1)
    ]


def test_unknown_items_of_a_filter_are_nothing(recommender, caplog):
    histories = frame(HISTORIES)
    got = recommender.recommend(histories, filter=["fig", "durian", "fig"])
    assert set(got["item_id"]) == {"fig"}
    assert "filter: 1 of 2 ids are not items of the training data" in caplog.text
    with pytest.raises(ValueError, match=r"filter: got \['durian'\], 1 ids without one"):
        recommender.recommend(histories, filter=["durian"])
    with pytest.raises(ValueError, match=r"filter: got \[\], 0 ids"):
        recommender.recommend(histories, filter=[])
    for wrong in ("fig", pl.DataFrame({"item_id": ["fig"]})):
        with pytest.raises(TypeError, match="filter: got .*fig.*, expected a list or Series"):
            recommender.recommend(histories, filter=wrong)


def test_diversity_takes_from_other_categories(recommender):
    histories = frame(HISTORIES)
    plain = lists(recommender.recommend(histories, k=3))
    alike = plain[1][:2]  # the plain list begins with two of a kind
    kind = {name: "a" if name in alike else "b" for name in NAMES}
    kinds = pl.DataFrame({"item_id": list(kind), "category": list(kind.values())})
    much = lists(recommender.recommend(histories, k=3, diversity=1e6, categories=kinds))
    assert much[1][0] == alike[0] and kind[much[1][1]] == "b"
    assert all(len({kind[item] for item in items[:2]}) == 2 for items in much.values())
    little = recommender.recommend(histories, k=3, diversity=1e-9, categories=kinds)
    assert lists(little) == plain


def test_diversity_without_categories_takes_clusters(recommender):
    histories = frame(HISTORIES)
    once = recommender.recommend(histories, k=4, diversity=1.0)
    assert once.height == 8 and once.equals(recommender.recommend(histories, k=4, diversity=1.0))
    with pytest.raises(ValueError, match="diversity: got -1"):
        recommender.recommend(histories, diversity=-1)


def test_engines(recommender):
    histories = frame(HISTORIES)
    exact = recommender.recommend(histories, k=4, exclude_seen=True)
    for engine in ("auto", "exact", "Flat"):
        got = recommender.recommend(histories, k=4, exclude_seen=True, engine=engine)
        assert lists(got) == lists(exact)
    with pytest.raises(ConfigError, match="engine: got 'nonsense'"):
        recommender.recommend(histories, engine="nonsense")
    with pytest.raises(ValueError, match="engine: got 'Flat' with a filter"):
        recommender.recommend(histories, engine="Flat", filter=["fig"])


def test_large_catalogues_are_searched_with_faiss(recommender, monkeypatch, caplog):
    monkeypatch.setattr(module, "APPROXIMATE_FROM", 6)  # all there are
    with caplog.at_level(logging.INFO):
        assert recommender.recommend(frame(HISTORIES), k=4).height == 8
    assert "faiss" not in caplog.text
    monkeypatch.setattr(module, "APPROXIMATE_FROM", 5)
    with caplog.at_level(logging.INFO):
        got = recommender.recommend(frame(HISTORIES), k=4)
    assert "faiss IVF1,Flat" in caplog.text and got.height == 8
    caplog.clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level(logging.INFO):
        assert lists(recommender.recommend(frame(HISTORIES), k=4)) == lists(got)
    assert "exact search over 6 items: " in caplog.text and "remi-fast[faiss]" in caplog.text


def test_arguments_that_are_something_else(recommender):
    histories = frame(HISTORIES)
    with pytest.raises(TypeError, match="exclude_seen: got 'no', expected True or False"):
        recommender.recommend(histories, exclude_seen="no")
    with pytest.raises(ValueError, match="categories: got some, expected a diversity above 0"):
        recommender.recommend(histories, categories="c.csv")
    with pytest.raises(TypeError, match=r"categories: got \{'a': 1\}, expected a polars.DataFrame"):
        recommender.recommend(histories, diversity=1.0, categories={"a": 1})
    with pytest.raises(DataError, match="histories: got no interactions"):
        recommender.recommend(histories.clear())


def test_times_under_another_name_are_told(recommender, caplog):
    rows = [(1, "kiwi", 2), (1, "plum", 1)]
    recommender.recommend(frame(rows, ("user_id", "item_id", "time")))
    assert "no column timestamp, so row order is used" in caplog.text
    caplog.clear()
    recommender.recommend(frame(rows, ("user_id", "item_id", "timestamp")))
    assert not caplog.records
