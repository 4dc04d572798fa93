"""Sweeps: which runs, from which commands, resumed and compared."""

import json
import statistics

import pytest

from remi_fast import sweep
from remi_fast.cli import main
from remi_fast.config import Config
from remi_fast.errors import ConfigError, RunFolderError

SMALL = ["--model.dim=8", "--loss.num_negatives=20", "--train.batch_size=16", "--train.threads=1"]
SHORT = [*SMALL, "--train.steps=10", "--train.eval_every=10", "--model.num_interests=2"]


def test_a_grid_is_all_combinations():
    found = sweep.grid(["loss.beta=0,1", "--model.dim=8,16,32"], None)
    assert len(found) == 6 and found[1] == {"loss.beta": "0", "model.dim": "16"}
    assert sweep.grid([], None) == [{}]


def test_a_sample_is_of_different_combinations_and_repeats():
    lines = ["loss.beta=0,1,2,3", "model.dim=8,16,32"]
    drawn = sweep.grid(lines, 5)
    assert len({json.dumps(each) for each in drawn}) == 5
    assert drawn == sweep.grid(lines, 5) and sweep.grid(lines, 50) == sweep.grid(lines, None)


@pytest.mark.parametrize("line", ["loss.beta", "loss.beta=", "=1", "loss.beta=0,,1"])
def test_lines_that_are_no_grid(line):
    with pytest.raises(ConfigError, match="--grid: got .*expected key=value,value"):
        sweep.grid([line], None)
    with pytest.raises(ConfigError, match="every key once"):
        sweep.grid(["a=1", "a=2"], None)


def test_keys_and_values_are_checked_first():
    sweep.check(Config(), [{"loss.beta": "0.5"}])
    with pytest.raises(ConfigError, match="did you mean loss.beta"):
        sweep.check(Config(), [{"loss.beta": "1"}, {"loss.betta": "1"}])
    with pytest.raises(ConfigError, match="loss.beta"):
        sweep.check(Config(), [{"loss.beta": "-1"}])


def test_folders_are_told_apart(tmp_path):
    folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    settings = [{"a.b": "x/../y"}, {"a.b": "x_.._y"}, {"c.b": "x_.._y"}, {}]
    trials = folder.trials(settings, [1, 2])
    assert len({trial.folder for trial in trials}) == 8
    assert all(trial.folder.parent == tmp_path / "sweep" for trial in trials)
    assert trials[3].name == "as given" and [t.seed for t in trials] == [1] * 4 + [2] * 4


def test_a_folder_is_of_one_sweep(tmp_path):
    sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    with pytest.raises(ConfigError, match="a sweep with data 'data', got 'other'"):
        sweep.SweepFolder(tmp_path / "sweep", Config(), "other")
    other = Config(loss=Config().loss.__class__(beta=3))
    with pytest.raises(ConfigError, match="a sweep with loss.beta 1.0, got 3"):
        sweep.SweepFolder(tmp_path / "sweep", other, "data")
    (tmp_path / "else").mkdir()
    with pytest.raises(RunFolderError, match="exists and is no sweep"):
        sweep.SweepFolder(tmp_path / "else", Config(), "data")


def test_the_ablation_from_the_command_line(dataset, tmp_path, capsys):
    out = tmp_path / "sweep"
    command = ["sweep", str(dataset.path), "--out", str(out), "--ablation", "--seeds", "1", "2"]
    command += ["--jobs", "2", "--json", *SHORT]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [f"beta={beta} rr_lambda={rr}" for beta in (0, 1) for rr in (0, 100)]
    assert list(rows) == names and rows == json.loads((out / "table.json").read_text())
    runs = {path: json.loads(path.read_text()) for path in out.glob("*/result.json")}
    assert len(runs) == 8
    plain = [r["test"]["recall@50"] for p, r in runs.items() if "beta=0,rr_lambda=0" in str(p)]
    assert rows[names[0]]["recall@50"] == [statistics.mean(plain), statistics.stdev(plain)]
    assert len({r["test"]["ndcg@50"] for r in runs.values()}) > 4, "they differ"

    victim = next(out.glob("beta=1*seed2"))
    before = {path: path.stat().st_mtime_ns for path in runs}
    (victim / "result.json").unlink()  # as if it had been stopped
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == rows
    after = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    assert [path for path in before if before[path] != after[path]] == [victim / "result.json"]


def test_a_run_that_fails_is_named_and_the_others_are_kept(dataset, tmp_path, capsys):
    command = ["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), "--seeds", "1"]
    assert main([*command, "--grid", "optim.lr=0.001,1e18", *SHORT]) == 1
    printed = capsys.readouterr()
    assert "lr=1e18 seed 1: remi-fast train: step" in printed.err
    assert "lr=0.001 seed 1: test recall@50" in printed.err and "lr=0.001" in printed.out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--grid", "loss.betta=1,2"], "did you mean loss.beta"),
        (["--jobs", "0"], "--jobs: got 0, expected 1 or more"),
        (["--sample", "0", "--grid", "loss.beta=1,2"], "--sample: got 0"),
        (["--ablation", "--loss.beta=0"], "--ablation: got loss.beta 0"),
        (["--resume"], "without --resume"),
    ],
)
def test_bad_commands_leave_nothing_behind(words, message, dataset, tmp_path, capsys):
    assert main(["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "sweep").exists()
