"""The page loads nothing, whatever the runs hold, and says what they do."""

import json
import re
import shutil
import sys

import pytest

from remi_fast.cli import main
from remi_fast.errors import CorruptFileError

from .conftest import HOSTILE, RUNS, log

pytest.importorskip("matplotlib")
TAGS = """html head meta title style body h1 h2 h3 p b ul li div table thead tbody tr th td details
summary figure figcaption footer svg defs g path use clippath rect text tspan image"""
ALL = {
    "loss",
    "recall",
    "throughput",
    "effective-negatives",
    "hardness",
    "interests-used",
    "interest-usage",
    "largest-routing-weight",
    "largest-routing-weights",
    "routing-1",
    "routing-2",
    "item-map-1",
    "item-map-2",
}


def test_nothing_is_loaded_and_everything_is_escaped(both):
    assert set(both.tags) <= set(TAGS.split())
    for name, value in both.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith(("#", "data:image/png;base64,"))
    style = both.source[both.source.index("<style>") : both.source.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert set(re.findall(r"url\((.)", both.source)) <= {"#"}
    assert not re.search(r"https?:", both.source)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", policy) in both.attributes
    assert HOSTILE in both.row("folder")[0] and HOSTILE in both.text
    assert "user </script><scrip…" in both.text, "shown as text"


def test_every_figure_is_there_once(both):
    assert set(both.figures) == ALL and len(both.figures) == len(ALL)
    identifiers = [value for name, value in both.attributes if name == "id"]
    same = {i for i in identifiers if identifiers.count(i) > 1}
    assert all(re.fullmatch("(m|p|image)[0-9a-f]+", i) for i in same), "hashes of what they name"
    words = ("samples a second", "recall@50 (share of held-out items)", "training step")
    assert all(word in both.text for word in words)


def test_colours_follow_the_page(both):
    body = both.source[both.source.index("<body>") :]
    assert "stroke: var(--s0)" in body and "fill: currentColor" in body
    assert "#0072b2" not in re.sub(r">[^<]*<", "", body) and "#ffffff" not in body


def test_metrics_are_those_of_the_results(both, trained):
    results = [json.loads((trained / name / "result.json").read_text()) for name in RUNS][:2]
    for split in ("test", "valid"):
        row = ["recall@50", *(f"{result[split]['recall@50']:.4f}" for result in results)]
        assert row in both.rows
    best = max(result["test"]["recall@50"] for result in results)
    assert f"<b>{best:.4f}</b>" in both.source
    assert both.row("best step") == [f"{result['best_step']:,}" for result in results]


def test_the_settings_that_differ(both):
    assert both.row("loss.rr_lambda") == ["0", "50"]
    differing = both.text[: both.text.index("All settings")]
    assert "model.max_history" in differing and "model.dim" not in differing
    assert both.row("model.dim") == ["8", "8"]


def test_models_without_routing(page):
    found = page("dnn", "pop")
    assert set(found.figures) == {"loss", "recall", "throughput", "effective-negatives", "hardness"}
    assert "dnn: dnn has one vector a user: no use of interests, no routing" in found.text
    assert "pop: pop has one ranking for all: no use of interests, no routing" in found.text
    assert found.row("state")[1] == "finished: counted, not trained"
    assert "None" not in found.text and "nan" not in found.text
    assert page("pop").figures == []


def test_one_interest(page):
    found = page("alone")
    assert set(found.figures) == ALL - {
        *("interests-used", "interest-usage", "routing-2", "item-map-1", "item-map-2")
    }
    assert "alone: model.num_interests is 1" in found.text


def test_a_run_without_weights(page):
    found = page("weightless")
    assert "loss" in found.figures and "routing-1" not in found.figures
    assert "there is no best checkpoint" in found.text


def test_an_interrupted_run(page, trained, tmp_path):
    run = tmp_path / "half"
    shutil.copytree(trained / "_remi", run)
    (run / "result.json").unlink()
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    damaged = b'\xff\n[]\n{"step": 1e999}\n{"step": 7, "loss": "x"}\n{"step": 7, "split": {}}\n'
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:-4]) + damaged + lines[-4][:30])
    found = page("half", folder=tmp_path)
    assert found.row("state") == ["not finished: step 300 of 400"]
    assert "half: not finished: step 300 of 400. It was interrupted" in found.text
    assert "cannot be read (cut off by a kill, or damaged) are left out: 6." in found.text
    valid = [record for record in log(trained / "_remi", "valid") if record["step"] <= 300]
    best = max(record["recall@50"] for record in valid)
    assert found.row("recall@50") == [f"{best:.4f}"], "there are no test metrics"
    assert set(found.figures) == {name for name in ALL if not name.endswith("-2")}


def test_a_run_that_has_just_begun(page, trained, tmp_path):
    run = tmp_path / "new"
    ignore = shutil.ignore_patterns("result.json", "metrics.jsonl", "checkpoints", "env.json")
    shutil.copytree(trained / "_remi", run, ignore=ignore)
    found = page("new", folder=tmp_path)
    assert found.figures == [] and "not finished: step 0 of 400" in found.text


def test_data_that_is_gone(page, trained, tmp_path):
    for name in ("_remi", "data"):
        shutil.copytree(trained / name, tmp_path / name)
    record = (tmp_path / "_remi/data.json").read_text()
    assert main(["prepare", str(trained / "raw.parquet"), "--out", str(tmp_path / "moved")]) == 0
    words = ["train", str(tmp_path / "moved"), "--out", str(tmp_path / "run"), "--train.steps=1"]
    assert main([*words, "--train.eval_every=1"]) == 0 and record
    shutil.rmtree(tmp_path / "moved")
    found = page("run", folder=tmp_path)
    assert "no item map: " in found.text and "the dataset of the run is gone" in found.text
    assert found.row("recall@50") != ["–"]


def test_other_data_is_pointed_out(page, both, trained, dataset, tmp_path):
    words = ["train", str(dataset.path), "--out", str(tmp_path / "other"), "--train.steps=1"]
    assert main(words) == 0
    shutil.copytree(trained / "mind", tmp_path / "mind")
    apart = page("other", "mind", folder=tmp_path)
    assert "of different data" in apart.text and "of different data" not in both.text
    assert "<b>" not in apart.source and "Bold" not in apart.text, "what cannot be compared"
    assert "<b>" in both.source and "Bold" in both.text


def test_damaged_weights_are_an_error(look, trained, tmp_path):
    shutil.copytree(trained / "_remi", tmp_path / "run")
    file = tmp_path / "run/checkpoints/best/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptFileError, match=r"model.safetensors: checksum"):
        look("run", folder=tmp_path)


def test_the_same_bytes_twice(page, both):
    assert page(HOSTILE, "_remi").source == both.source


def test_eight_runs_in_the_folder_of_the_first(trained, tmp_path, capsys):
    for name in range(8):
        shutil.copytree(trained / "_remi", tmp_path / f"{name}" / "same name")
    names = [str(tmp_path / f"{name}" / "same name") for name in range(8)]
    assert main(["report", *names]) == 0
    text = (tmp_path / "0/same name/report.html").read_text()
    assert all(f">{name}/same name</th>" in text for name in range(8))
    assert all(f"stroke: var(--s{i})" in text for i in range(8))
    assert capsys.readouterr().out.endswith("report.html: 25 figures\n")


def test_pngs_for_papers(trained, tmp_path):
    from matplotlib.image import imread

    names = [str(trained / name) for name in (HOSTILE, "_remi")]
    command = ["report", *names, "--out", str(tmp_path / "a/r.html")]
    assert main([*command, "--png", str(tmp_path / "b/png")]) == 0
    assert {file.name for file in (tmp_path / "b/png").iterdir()} == {f"{n}.png" for n in ALL}
    image = imread(tmp_path / "b/png/loss.png")
    assert image.shape[1] == 1440, "4.8 inches"
    assert (image[0, 0, :3] == 1).all() and 0.5 < image[..., :3].mean() < 0.99


def test_without_matplotlib(trained, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(trained / "_remi"), "--out", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("remi-fast report: the page needs the package matplotlib, ")
    assert "`pip install 'remi-fast[report]'`, got: " in error
    assert not list(tmp_path.iterdir())
