"""The programs of bench/: that they run, in small. The files that pytest-benchmark runs, and what
bench/run_gpu.sh rehearses, have their turns elsewhere."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bench import endurance, results
from remi_fast.cli import main
from remi_fast.sweep import SweepFolder
from tests.sweep.conftest import metrics

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = sorted(
    path.stem for path in (ROOT / "bench").glob("*.py") if "def main(" in path.read_text("utf-8")
)
SMALL = ["--model.dim=8", "--train.batch_size=16", "--train.steps=4", "--train.eval_every=2"]
CONSTANTS = {  # made smaller
    "adam_curves": {"LOSS_EVERY": 5},
    "finite_checks": {"WARM_UP": 2},
    "profile_step": {"CALLS": 2},
}


@pytest.fixture
def run(monkeypatch):
    def run(program, *words):
        module = import_module(f"bench.{program}")
        for name, value in CONSTANTS.get(program, {}).items():
            monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(sys, "argv", [f"bench/{program}.py", *map(str, words)])
        module.main()

    return run


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(program, run, capsys):
    with pytest.raises(SystemExit) as ended:
        run(program, "--help")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(
    "words",
    [
        "finite_checks --items 300 --steps 2",
        "profile_step --items 300",
        "search_in_turns --users 20 --items 300 --engines IVF4,Flat --rounds 1",
    ],
)
def test_on_generated_data(words, run, tmp_path, monkeypatch):
    if "search" in words:
        pytest.importorskip("faiss")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    run(*words.split(), "--save", "small")
    assert json.loads((tmp_path / "small.json").read_text())["results"]


def test_dense_and_deferred_adam_have_one_curve(dataset, run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    words = ["--steps", "10", "--eval-every", "5", "--batch-size", "16"]
    run("adam_curves", dataset.path, *words, "--save", "curves")
    curves = json.loads((tmp_path / "curves.json").read_text())["results"]
    dense, deferred, lazy = (curves[kind] for kind in ("dense", "deferred", "lazy"))
    assert len(dense["loss"]) == len(dense["recall@50"]) == 2
    assert deferred["loss"] == pytest.approx(dense["loss"], rel=1e-5)
    assert lazy["loss"] == pytest.approx(dense["loss"], rel=1e-5), "of few items none is idle"


def test_endurance_notes_every_step(tmp_path, monkeypatch):
    monkeypatch.setattr(endurance, "VALIDATIONS", 2)
    monkeypatch.setattr(endurance, "SAMPLE_EVERY", 50)
    measured = endurance.measure(200, tmp_path)
    assert measured["steps"] == 180 and measured["step_ms"]["p50"] > 0
    assert measured["memory"]["peak_MB"] > 0


def test_a_beta_that_tunes_itself(dataset, run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    words = ["--steps", "4", "--shares", "0.9", "--save", "shares"]
    run("self_tuning_beta", dataset.path, "--out", tmp_path / "runs", *words)
    found = json.loads((tmp_path / "shares.json").read_text())["results"]["shares"]
    assert len(found["0.9"]["betas"]) == 1 and found["0.9"]["result"]["train"]["steps"] == 4


def test_runs_are_collected(dataset, run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert main(["train", str(dataset.path), "--out", str(tmp_path / "run"), *SMALL]) == 0
    run("collect", tmp_path / "run", "--save", "collected")
    (found,) = json.loads((tmp_path / "collected.json").read_text())["results"]["runs"]
    assert found["settings"]["model.dim"] == 8 and found["diagnostics"]["step"] == 4
    assert found["data"] == dataset.path.name and found["train"]["steps"] == 4


def test_quality_is_a_table_of_settings(dataset, run, tmp_path, monkeypatch, capsys):
    trained = {"valid": metrics(0.5), "test": metrics(0.25)}
    monkeypatch.setattr(SweepFolder, "train", lambda folder, trial, data, jobs: trained)
    words = ["--settings", "0,0", "1,100", "--seeds", "1", "2"]
    run("quality", dataset.path, "--out", tmp_path / "out", *words, "--", *SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["beta,lambda", "0,0", "1,100"]
    assert lines[1].count("0.2500 ± 0.0000") == 4
