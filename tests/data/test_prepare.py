"""From raw interactions to a dataset folder, against plain Python."""

import resource
from collections import Counter

import numpy as np
import polars as pl
import pytest

from remi_fast.data.dataset import Dataset
from remi_fast.data.demo import demo_interactions
from remi_fast.data.prepare import PrepareSettings, prepare
from remi_fast.errors import ConfigError, DataError, RunFolderError, StorageError


def random_rows(seed=0, users=60, items=30, rows=500):
    generator = np.random.default_rng(seed)
    item = (items * generator.random(rows) ** 2).astype(int)
    columns = (generator.integers(users, size=rows), item, generator.integers(40, size=rows))
    return list(zip(*(c.tolist() for c in columns), strict=True))


def save(path, rows):
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    return path


def filtered(rows, name, least):
    """The kept rows and the items of the catalogue."""
    catalogue = {i for _, i, _ in rows}
    while name != "none":
        before = len(rows)
        counts = Counter(i for _, i, _ in rows)
        catalogue = {i for i, n in counts.items() if n >= least}
        rows = [r for r in rows if r[1] in catalogue]
        counts = Counter(u for u, _, _ in rows)
        rows = [r for r in rows if counts[r[0]] >= least]
        if name == "one-pass" or len(rows) == before:
            break
    return rows, catalogue


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name, least", [("one-pass", 9), ("k-core", 6), ("none", 9)])
def test_against_plain_python(tmp_path, seed, name, least):
    rows = random_rows(seed)
    settings = PrepareSettings(filter=name, min_item=least, min_user=least)
    got = prepare([save(tmp_path / "x.parquet", rows)], tmp_path / "out", settings)
    kept, catalogue = filtered(rows, name, least)
    counts = Counter(i for _, i, _ in kept)
    ranked = sorted(catalogue, key=lambda i: (-counts[i], i))
    assert got.item_table["item_id"].to_list() == ranked
    assert got.item_table["count"].to_list() == [counts[i] for i in ranked]
    users = sorted({u for u, _, _ in kept})
    assert got.user_table["user_id"].to_list() == users
    for index, user in enumerate(users):
        mine = sorted((r for r in kept if r[0] == user), key=lambda r: r[2])  # stable
        stored = got.items[got.offsets[index] : got.offsets[index + 1]]
        assert stored.tolist() == [1 + ranked.index(r[1]) for r in mine]
    assert got.num_items == len(ranked) + 1 and got.num_interactions == len(kept)


def test_users_split(dataset):
    parts = [
        dataset.train_users,
        dataset.eval_split("valid").users,
        dataset.eval_split("test").users,
    ]
    assert [len(p) for p in parts] == [240, 30, 30]
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))
    assert not (np.diff(dataset.train_users) == 1).all(), "the users were not shuffled"
    for name in ("valid", "test"):
        split = dataset.eval_split(name)
        for user, (start, cut, end) in zip(split.users, split.spans, strict=True):
            assert (start, end) == tuple(dataset.offsets[user : user + 2])
            assert cut == start + int(0.8 * (end - start))


def test_other_splits(raw_file, tmp_path):
    last = prepare([raw_file], tmp_path / "last", PrepareSettings(split="leave-one-out"))
    assert len(last.train_users) == len(last.eval_split("test")) == 300
    ends = last.offsets[1:]
    assert (last.train_spans[:, 1] == ends - 2).all()
    assert (last.eval_split("valid").spans[:, 1:] == np.stack([ends - 2, ends - 1], 1)).all()
    assert (last.eval_split("test").spans[:, 1:] == np.stack([ends - 1, ends], 1)).all()

    cut = prepare([raw_file], tmp_path / "cut", PrepareSettings(split="temporal"))
    times = pl.read_parquet(raw_file)["timestamp"].sort()
    first, second = times[len(times) * 8 // 10], times[len(times) * 9 // 10]
    raw = dict(pl.read_parquet(raw_file).group_by("user_id").agg("timestamp").iter_rows())
    for user, (start, end) in zip(cut.train_users, cut.train_spans, strict=True):
        stamps = raw[cut.user_table["user_id"][int(user)]]
        assert end - start == sum(t < first for t in stamps)
    valid = cut.eval_split("valid")
    for user, (_, middle, end) in zip(valid.users, valid.spans, strict=True):
        stamps = raw[cut.user_table["user_id"][int(user)]]
        assert end - middle == sum(first <= t < second for t in stamps)


def test_the_temporal_split_is_of_times_not_of_the_order_of_the_file(raw_file, tmp_path):
    shuffled = tmp_path / raw_file.name
    pl.read_parquet(raw_file).sample(fraction=1, shuffle=True, seed=1).write_parquet(shuffled)
    first, again = (
        prepare([file], tmp_path / name, PrepareSettings(split="temporal"))
        for file, name in ((raw_file, "sorted"), (shuffled, "shuffled"))
    )
    assert first.checksum == again.checksum


def test_a_given_split_is_kept_and_not_filtered(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for part, users in (("train", (1, 2)), ("valid", (3,)), ("test", (4,))):
        lines = [f"{u},{10 * u + i},{i}" for u in users for i in range(3)]
        (folder / f"x_{part}.txt").write_text("\n".join(lines) + "\n")
    got = prepare([folder], tmp_path / "out", PrepareSettings())
    assert got.num_interactions == 12 and got.manifest["settings"]["split"] == "given"
    assert [got.user_table["user_id"][int(u)] for u in got.eval_split("test").users] == [4]
    (folder / "x_test.txt").write_text("1,2,3\n")
    with pytest.raises(DataError, match="user 1 is in more than one of the split's files"):
        prepare([folder], tmp_path / "again", PrepareSettings())


def test_same_input_same_bytes(raw_file, dataset, tmp_path):
    again = prepare([raw_file], tmp_path / "again", PrepareSettings())
    assert again.checksum == dataset.checksum
    other = prepare([raw_file], tmp_path / "other", PrepareSettings(seed=2))
    assert other.train_users.tolist() != dataset.train_users.tolist()


def test_summary(dataset):
    summary = dataset.manifest["summary"]
    assert summary["filter"][0]["interactions"] >= dataset.num_interactions
    assert summary["split"]["train"]["users"] == 240 and summary["lengths"]["min"] >= 5


def test_errors_leave_nothing_behind(tmp_path):
    few = save(tmp_path / "few.parquet", random_rows(rows=20))
    (tmp_path / "no_time.csv").write_text("user,item\n" + "1,2\n" * 50)
    cases = [
        (few, PrepareSettings(), r"drops every interaction \(raw: \d+ users"),
        (tmp_path / "no_time.csv", PrepareSettings(split="temporal"), "no time column"),
        (tmp_path / "no_time.csv", PrepareSettings(), "leaves no user to train on"),
    ]
    for source, settings, message in cases:
        with pytest.raises(DataError, match=message):
            prepare([source], tmp_path / "out", settings)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.parquet", "no_time.csv"]
    (tmp_path / "out").mkdir()
    with pytest.raises(RunFolderError, match="exists already"):
        prepare([few], tmp_path / "out", PrepareSettings(filter="none"))


@pytest.mark.parametrize(
    "bad", [{"filter": "2-core"}, {"split": "user"}, {"min_item": 0}, {"seed": -1}]
)
def test_settings(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}: got"):
        PrepareSettings(**bad)


@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_a_file_that_finds_no_room_leaves_nothing(dataset, raw_file, tmp_path, missing):
    largest = max((dataset.path / name).stat().st_size for name in ("items.npy", "offsets.npy"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - missing, limits[1]))
    try:
        with pytest.raises(StorageError, match="data: cannot be written.*File too large"):
            prepare([raw_file], tmp_path / "data", PrepareSettings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_demo_is_pinned_and_is_what_it_says():
    frame = demo_interactions()
    assert frame.equals(demo_interactions())
    assert int(frame["timestamp"].sum()) == 360681278497266 and frame.height == 207726
    assert frame["user_id"].n_unique() == 8000
    times = frame.group_by("user_id", maintain_order=True).agg(pl.col("timestamp").diff().min())
    assert times["timestamp"].min() > 0  # ascending, no ties
    topics = frame.with_columns(topic=pl.col("item_id").str.slice(0, 9))
    shares = (
        topics.group_by("user_id", "topic")
        .len()
        .group_by("user_id")
        .agg(share=pl.col("len").top_k(5).sum() / pl.col("len").sum())
    )
    assert shares["share"].mean() > 0.85  # at most 5 planted topics, 10 % noise
    popular = frame["item_id"].value_counts()["count"].top_k(100).sum()
    assert popular > 0.2 * frame.height  # 1 % of the items


def test_dataset_opens_again(dataset):
    again = Dataset.open(dataset.path)
    assert again.checksum == dataset.checksum and not again.items.flags.writeable
