"""Searches: choosing by validation, stopped and gone on with."""

import json
import sys
from itertools import islice

import pytest

from remi_fast import sweep
from remi_fast.cli import main
from remi_fast.config import Config

from .conftest import recall

LINES = ["loss.beta=0.01..100", "model.dim=8..64", "model.name=mind,comirec-sa"]


@pytest.fixture
def search(tmp_path, made_up):
    """search(number): the runs of a search, on going on in the same folder."""
    found = pytest.importorskip("remi_fast.sweep.search").search

    def start(number, seeds=(3, 4), jobs=1, lines=LINES, name="sweep"):
        folder = sweep.SweepFolder(tmp_path / name, Config(), "data", jobs)
        return found(
            folder, sweep.space(lines), number, seeds=seeds, data=tmp_path / "data", jobs=jobs
        )

    return start


def test_the_best_by_validation_is_found_and_trained_with_all_seeds(search):
    trials = [trial for trial, _ in search(60)]
    assert [trial.seed for trial in trials] == [3] * 60 + [4]
    assert trials[-1].settings == max(trials[:60], key=recall).settings
    betas = [float(dict(trial.settings)["loss.beta"]) for trial in trials[40:60]]
    assert sum(0.2 < beta < 5 for beta in betas) > 14, "it looks where it found much"
    assert {dict(trial.settings)["model.name"] for trial in trials} == {"mind", "comirec-sa"}


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_search_that_was_stopped_goes_on(search, made_up, jobs):
    whole = list(search(14, jobs=jobs))
    made_up.clear()
    stopped = list(islice(search(14, jobs=jobs, name="stopped"), 12))
    assert len(made_up) in (12, 15), "nothing is trained beyond those chosen together"
    made_up.clear()
    again = list(search(14, jobs=jobs, name="stopped"))
    assert [t.settings for t, _ in again] == [t.settings for t, _ in whole]
    assert again[:12] == stopped and not {t for t, _ in stopped} & set(made_up)


def test_ranges_are_on_the_scale_of_a_sample():
    found = pytest.importorskip("remi_fast.sweep.search")
    space = sweep.space(["loss.beta=0.01..100", "optim.lr=0..1", "model.dim=8..80"])
    assert [found._distribution(values).log for values in space.values()] == [True, False, True]


def test_what_fails_is_avoided(search):
    lines = ["optim.lr=1,9", "loss.beta=0.1..10"]
    runs = list(search(30, lines=lines))
    rates = [dict(trial.settings)["optim.lr"] for trial, _ in runs]
    assert 0 < rates.count("9") < 10, "at random it would be 15 of the 30"
    assert {outcome for trial, outcome in runs if ("optim.lr", "9") in trial.settings} == {
        "it diverged"
    }


def test_what_is_chosen_again_is_not_trained_again(search, made_up):
    runs = list(search(12, jobs=4, lines=["model.num_interests=1..2"]))
    assert len(made_up) == 3, "two settings, the better one with two seeds"
    assert len(sweep.rows(dict(runs))) == 2


def test_from_the_command_line(dataset, tmp_path, capsys, made_up):
    pytest.importorskip("optuna")
    command = ["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), "--optuna", "5"]
    command += ["--grid", "loss.beta=0.01..100", "--seeds", "1", "2", "--json"]
    assert main(command) == 0
    rows = list(json.loads(capsys.readouterr().out).values())
    found = [row["valid recall@50"][0] for row in rows]
    assert len(found) == 5 and found == sorted(found, reverse=True)
    assert rows[0]["recall@50"][1] > 0 and rows[1]["recall@50"][1] == 0
    assert main([*command, "--jobs", "2", "--train.threads=2"]) == 2


def test_without_optuna(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "remi_fast.sweep.search", raising=False)
    command = ["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), "--optuna", "5"]
    assert main([*command, "--grid", "loss.beta=0.01..100"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("remi-fast sweep: --optuna needs the package optuna, expected it from ")
    assert "`pip install 'remi-fast[sweep]'`, got: " in error
    assert not (tmp_path / "sweep").exists()


def test_a_search_says_first_how_much_it_is(dataset, tmp_path, made_up, capsys):
    pytest.importorskip("optuna")
    command = ["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), "--optuna", "2"]
    assert main([*command, "--grid", "loss.beta=1..9", "--seeds", "4", "5"]) == 0
    announced = "2 settings with seed 4, the best with all 2, at most 1,000,000 steps each\n"
    assert capsys.readouterr().err.startswith(announced)
