"""Categories from files, and clusters of vectors."""

import logging

import numpy as np
import polars as pl
import pytest
import torch

from remi_fast.errors import DataError
from remi_fast.retrieval import categories as module
from remi_fast.retrieval.categories import cluster, default_clusters, read_categories

TABLE = pl.DataFrame({"item_id": [70, 80, 90, 100], "index": [1, 2, 3, 4], "count": [4, 3, 2, 1]})


class Table:
    def __init__(self, weight):
        self.weight = weight
        self.num_items = len(weight)

    def rows(self, start, end):
        return self.weight[start:end]


def written(path, frame):
    getattr(frame, {".csv": "write_csv", ".parquet": "write_parquet"}[path.suffix])(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("ids", [[100, 70, 90, 80, 5], ["100", "70", "90", "80", "x"]])
@pytest.mark.parametrize("kinds", [["b", "a", "b", "c", "d"], [20, 10, 20, 30, 40]])
def test_file(tmp_path, suffix, ids, kinds):
    frame = pl.DataFrame({"category": kinds, "more": 1.5, "item_id": ids})
    got = read_categories(written(tmp_path / f"c{suffix}", frame), TABLE)
    assert got.dtype == np.int64 and got.tolist() == [-1, 0, 2, 1, 1]


def test_items_without_category_share_one(tmp_path, caplog):
    frame = pl.DataFrame({"item_id": [70, 90, 70], "category": ["a", None, "a"]})
    with caplog.at_level(logging.WARNING):
        got = read_categories(written(tmp_path / "c.parquet", frame), TABLE)
    assert got.tolist() == [-1, 0, 1, 1, 1]
    assert "3 of 4 items have no category; they share the category 'unknown'" in caplog.text


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"item_id": [70], "categry": ["a"]}, "no column 'category'.*did you mean categry"),
        ({"itemid": [70], "category": ["a"]}, "no column 'item_id'.*did you mean itemid"),
        ({"item_id": [70], "category": [["a"]]}, r"category is of type List\(String\), expected"),
        ({"item_id": [70.5], "category": ["a"]}, "item_id is of type Float64, expected whole"),
        ({"item_id": [71], "category": ["a"]}, r"got item_id \[71\], the model knows \[70, 80"),
        ({"item_id": [70, 70], "category": ["b", "a"]}, r"item 70 has the categories \['a', 'b'\]"),
    ],
)
def test_files_that_are_refused(tmp_path, columns, message):
    path = written(tmp_path / "c.parquet", pl.DataFrame(columns))
    with pytest.raises(DataError, match=message) as caught:
        read_categories(path, TABLE)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_table(tmp_path):
    for name, message in (("none.csv", "no such file"), ("c.txt", "not a table")):
        (tmp_path / "c.txt").write_text("x")
        with pytest.raises(DataError, match=f"{message}, expected a file in .parquet or .csv"):
            read_categories(tmp_path / name, TABLE)
    (tmp_path / "c.parquet").write_text("x")
    with pytest.raises(DataError, match=r"cannot be read as \.parquet"):
        read_categories(tmp_path / "c.parquet", TABLE)


def directions(groups=5, each=30, seed=0):
    """Items around distinct directions, of any length, and the group of each."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (groups * each,), generator=generator)
    noise = 0.02 * torch.randn(len(group), 8, generator=generator)
    length = 0.1 + 10 * torch.rand(len(group), 1, generator=generator)
    weight = (torch.eye(8)[group] + noise) * length
    return Table(torch.cat([torch.full((1, 8), 50.0), weight])), group.numpy()


def test_clusters_are_groups_of_directions():
    table, group = directions()
    got = cluster(table, 40)  # more than there are groups: none is lost to its start
    assert got[0] == -1 and got.dtype == np.int64 and got[1:].max() < 40
    for label in np.unique(got[1:]):
        assert len(set(group[got[1:] == label])) == 1


def plain_lloyd(vectors, num_clusters):
    """On the vectors in the order drawn; labels of these."""
    centres = vectors[:num_clusters].copy()
    for _ in range(module.ITERATIONS):
        label = ((vectors[:, None] - centres) ** 2).sum(2).argmin(1)
        for j in range(num_clusters):
            if (label == j).any():
                centres[j] = vectors[label == j].mean(0)
    return ((vectors[:, None] - centres) ** 2).sum(2).argmin(1)


@pytest.mark.parametrize("repeated", [False, True])  # centres that begin equal: one is empty
@pytest.mark.parametrize("seed", [0, 3])
def test_against_a_plain_lloyd(seed, repeated):
    weight = torch.randn(61, 4, generator=torch.Generator().manual_seed(seed))
    if repeated:
        order = module.permute(np.arange(60), 60, seed=0, step=0) + 1
        weight[order[:3]] = weight[order[3]].clone()
    got = cluster(Table(weight), 6)
    order = module.permute(np.arange(60), 60, seed=0, step=0) + 1
    unit = (weight / weight.norm(dim=1, keepdim=True)).double().numpy()
    assert (got[order] == plain_lloyd(unit[order], 6)).all()


def test_pieces_and_samples(monkeypatch):
    table, group = directions()
    whole = cluster(table, 7)
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 20)
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", 11)
    assert (cluster(table, 7) == whole).all()
    monkeypatch.setattr(module, "MAX_SAMPLE", 60)
    sampled = cluster(table, 40)
    assert len(sampled) == 151 and (sampled[1:] >= 0).all()
    for label in np.unique(sampled[1:]):
        assert len(set(group[sampled[1:] == label])) == 1


def test_numbers_of_clusters():
    table, _ = directions()
    assert set(cluster(table, 1)[1:]) == {0} and len(set(cluster(table, 150)[1:])) == 150
    assert len(set(cluster(table)[1:])) <= default_clusters(151) == 12
    assert (default_clusters(2), default_clusters(10**7)) == (1, 1000)
    for number in (0, 151):
        with pytest.raises(ValueError, match=f"num_clusters: got {number}, expected 1 to the 150"):
            cluster(table, number)
