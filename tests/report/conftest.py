"""Runs to report on, whose names and user ids are hostile."""

import json
from html.parser import HTMLParser

import polars as pl
import pytest

from remi_fast.cli import main
from tests.conftest import interactions

HOSTILE = '<img src=x onerror="alert(1)">&$x^{$_\'#0072b2'
SMALL = "--model.dim=8 --loss.num_negatives=32 --train.batch_size=32 --train.steps=400"
RUNS = {
    HOSTILE: "--loss.beta=0 --loss.rr_lambda=0 --model.num_interests=3",
    "_remi": "--loss.beta=2 --loss.rr_lambda=50 --model.num_interests=3 --model.max_history=12",
    "mind": "--model.name=mind --model.num_interests=2",
    "alone": "--model.num_interests=1",
    "weightless": "--train.checkpoints=none",
    "dnn": "--model.name=dnn",
    "pop": "--model.name=pop",
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a run folder of each of RUNS, and `data`; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("report")
    frame = interactions()
    text = pl.lit("</script><script src=//x.y/") + pl.col("user_id").cast(str) + pl.lit(HOSTILE)
    frame.with_columns(user_id=text).write_parquet(folder / "raw.parquet")
    assert main(["prepare", str(folder / "raw.parquet"), "--out", str(folder / "data")]) == 0
    for name, words in RUNS.items():
        command = ["train", str(folder / "data"), "--out", str(folder / name), *SMALL.split()]
        assert main([*command, "--train.eval_every=100", *words.split()]) == 0
    return folder


@pytest.fixture
def look(trained):
    """look(names...): runs and probes."""
    from remi_fast.report.probe import probe
    from remi_fast.report.runs import read

    def look(*names, folder=trained):
        runs = read([folder / name for name in names])
        most = max(run.config.model.max_history for run in runs)
        return runs, [probe(run, most) for run in runs]

    return look


@pytest.fixture
def page(trained, tmp_path):
    """page(names...): the page of the command line, parsed."""

    def make(*names, folder=trained):
        out = tmp_path / "report.html"
        assert main(["report", *(str(folder / name) for name in names), "--out", str(out)]) == 0
        return Page(out.read_text(encoding="utf-8"))

    return make


@pytest.fixture(scope="session")
def both(trained):
    """The page of the first two runs."""
    out = trained / "both.html"
    names = [str(trained / name) for name in list(RUNS)[:2]]
    assert main(["report", *names, "--out", str(out)]) == 0
    return Page(out.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, source):
        super().__init__()
        self.source, self.tags, self.attributes, self.text = source, [], [], ""
        self.rows, self.figures, self.cell = [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True
        if tag == "figure":
            self.figures.append(dict(attributes)["id"])

    def handle_endtag(self, tag):
        self.cell &= tag not in ("td", "th")

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.rows[-1][-1] += data

    def row(self, name):
        """The cells of the first row with this name."""
        return next(row[1:] for row in self.rows if row and row[0] == name)


def log(folder, split):
    """Records of metrics.jsonl."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("split", "train") == split]
