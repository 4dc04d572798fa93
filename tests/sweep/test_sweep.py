"""Sweeps: which runs, from which commands, resumed and compared."""

import importlib.util
import json
import statistics
import subprocess
import sys

import pytest

from remi_fast import files, sweep
from remi_fast.cli import main
from remi_fast.config import Config, TrainConfig, load_config
from remi_fast.errors import ConfigError, RunFolderError

from .conftest import metrics

SMALL = ["--model.dim=8", "--loss.num_negatives=20", "--train.batch_size=16", "--train.threads=1"]
SHORT = [*SMALL, "--train.steps=10", "--train.eval_every=10", "--model.num_interests=2"]


def test_folders_are_told_apart(tmp_path):
    folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    settings = [{"a.b": "x/../y"}, {"a.b": "x_.._y"}, {"c.b": "x_.._y"}, {}]
    trials = folder.trials(settings, [1, 2])
    assert len({trial.folder for trial in trials}) == 8
    assert all(trial.folder.parent == tmp_path / "sweep" for trial in trials)
    assert trials[3].name == "as given" and [t.seed for t in trials] == [1] * 4 + [2] * 4
    assert folder.trials([*settings, {}], [1, 2, 2]) == trials, "nothing twice"


def commands(monkeypatch):
    """Those that would have been run."""
    words = []

    def run(command, **options):
        words.append(command)
        return subprocess.CompletedProcess(command, 1, "", "it failed")

    monkeypatch.setattr(sweep.runs.subprocess, "run", run)
    return words


def test_a_run_goes_on_from_its_checkpoint_or_is_begun_again(tmp_path, monkeypatch):
    folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    (trial,) = folder.trials([{"loss.beta": "2"}], [7])
    words = commands(monkeypatch)
    assert folder.train(trial, tmp_path / "data") == "it failed"
    (trial.folder / "checkpoints" / "best").mkdir(parents=True)
    with files.locked(trial.folder):  # as where another sweep trains it
        folder.train(trial, tmp_path / "data")
        assert trial.folder.exists()
    folder.train(trial, tmp_path / "data")
    assert not trial.folder.exists()
    (trial.folder / "checkpoints" / "last").mkdir(parents=True)
    folder.train(trial, tmp_path / "data")
    assert [words.index("--resume") if "--resume" in words else 0 for words in words] == [
        0,
        6,
        0,
        6,
    ]
    assert words[0] == words[2] and words[0][-2:] == ["--loss.beta=2", "--train.seed=7"]


def test_names_are_short_where_they_are_ones_own(tmp_path):
    folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    settings = {"model.name": "mind", "loss.name": "ihn", "loss.beta": "2"}
    (trial,) = folder.trials([settings], [1])
    assert trial.name == "model.name=mind loss.name=ihn beta=2"
    assert trial.folder.name.startswith("model.name=mind,loss.name=ihn,beta=2-")
    done = {trial: {"valid": metrics(0.5), "test": metrics(0.5)}}
    assert sweep.cells(sweep.rows(done))[0][:3] == ["model.name", "loss.name", "beta"]


@pytest.mark.parametrize(
    "given, settings, expected",
    [
        (0, {}, {1: "8", 2: "4", 9: "1"}),
        (3, {}, {1: "3", 2: "3"}),
        (0, {"train.threads": "5"}, {2: "5"}),
    ],
)
def test_jobs_share_the_cores(tmp_path, monkeypatch, given, settings, expected):
    monkeypatch.setattr(sweep.runs.os, "sched_getaffinity", lambda process: set(range(8)))
    words, config = commands(monkeypatch), Config(train=TrainConfig(threads=given))
    for jobs, threads in expected.items():  # of one sweep, whatever the jobs
        folder = sweep.SweepFolder(tmp_path / "sweep", config, "data")
        list(sweep.train_all(folder, folder.trials([settings], [1]), tmp_path / "data", jobs=jobs))
        given_last = [word for word in words[-1] if word.startswith("--train.threads")][-1]
        assert given_last == f"--train.threads={threads}"


def test_a_grid_goes_on_with_other_jobs(dataset, tmp_path, capsys, made_up):
    command = ["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), "--seeds", "1"]
    for jobs in ("1", "2"):
        assert main([*command, "--grid", "loss.beta=1,2", "--jobs", jobs]) == 0
    assert len(made_up) == 2, "nothing twice"


def test_a_folder_is_of_one_sweep(tmp_path):
    sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    with pytest.raises(ConfigError, match="a sweep with data 'data', got 'other'"):
        sweep.SweepFolder(tmp_path / "sweep", Config(), "other")
    with pytest.raises(ConfigError, match="a sweep with --jobs of the search None, got 2"):
        sweep.SweepFolder(tmp_path / "sweep", Config(), "data", 2)
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
    if importlib.util.find_spec("matplotlib"):
        assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
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
    assert "lr=0.001 seed 1: test recall@50" in printed.err
    assert list(json.loads((tmp_path / "sweep" / "table.json").read_text())) == ["lr=0.001"]


def test_a_table_in_markdown(tmp_path):
    trials = sweep.SweepFolder(tmp_path / "sweep", Config(), "data").trials(
        [{"model.name": "mind", "loss.beta": "0.5"}, {"model.name": "pop", "loss.beta": "1"}],
        [1, 2],
    )
    values = dict(zip(trials, (0.25, 0.375, 0.125, 0.5), strict=True))
    done = {t: {"valid": metrics(v), "test": metrics(v / 2)} for t, v in values.items()}
    assert sweep.markdown(sweep.cells(sweep.rows(done))) == (
        "| name | beta | valid recall@50 | test recall@20 | test recall@50 | test hit_rate@20 | "
        "test hit_rate@50 | test ndcg@20 | test ndcg@50 | seeds |\n"
        "|" + " --- |" * 10 + "\n"
        "| mind | 0.5 | 0.1875 ± 0.0884 |" + " 0.0938 ± 0.0442 |" * 6 + " 2 |\n"
        "| pop | 1 | 0.4375 ± 0.0884 |" + " 0.2188 ± 0.0442 |" * 6 + " 2 |\n"
    )
    one_seed = sweep.rows({trials[0]: done[trials[0]]})
    assert sweep.cells(one_seed, ["recall@50"])[1] == ["mind", "0.5", "0.2500", "0.1250", "1"]
    best_first = sweep.rows(done, best_first=True)
    assert [row.name for row in best_first] == ["name=pop beta=1", "name=mind beta=0.5"]


def test_the_best_is_by_the_seeds_that_all_settings_have(tmp_path):
    folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    trials = folder.trials([{"loss.beta": beta} for beta in "123"], [1, 2])
    values = (0.3, 0.5, 0.4, 0.6, 0.1, 0.9)
    done = {t: {"valid": metrics(v)} for t, v in zip(trials, values, strict=True)}
    names = [row.name for row in sweep.rows(done, best_first=True)]
    assert names == ["beta=3", "beta=1", "beta=2"]
    searched = {trial: done[trial] for trial in [*trials[:3], trials[4]]}
    names = [row.name for row in sweep.rows(searched, best_first=True)]
    assert names == ["beta=2", "beta=3", "beta=1"], "by seed 1, which beta 2 alone has another of"


def test_the_ablation_of_each_model(dataset, tmp_path, capsys, made_up):
    models = ["comirec-sa", "comirec-dr", "mind"]
    command = ["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), "--seeds", "1"]
    command += ["--ablation", "--grid", f"model.name={','.join(models)}", "--loss.beta=0.123456789"]
    assert main(command) == 0
    ablation = [("0", "0"), ("0", "100"), ("0.123456789", "0"), ("0.123456789", "100")]
    keys = ("model.name", "loss.beta", "loss.rr_lambda")
    assert [t.settings for t in made_up] == [
        tuple(zip(keys, (model, *each), strict=True)) for model in models for each in ablation
    ]


@pytest.mark.parametrize(
    "words, announced",
    [
        ([], "1 setting x 3 seeds, at most 1,000,000 steps each\n"),
        (
            ["--grid", "loss.beta=1,2", "train.steps=9,1000,20", "--seeds", "1"],
            "6 settings x 1 seed, at most 1,000 steps each\n",
        ),
        (
            ["--grid", "train.steps=10..300", "loss.beta=1,2", "--sample", "5", "--seeds", "1"],
            "5 settings x 1 seed, at most 300 steps each\n",
        ),
    ],
)
def test_a_sweep_says_first_how_much_it_is(words, announced, dataset, tmp_path, capsys, made_up):
    assert main(["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), *words]) == 0
    assert capsys.readouterr().err.startswith(announced)


def test_each_run_says_that_it_starts_or_goes_on(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    commands(monkeypatch)
    trials = folder.trials([{"loss.beta": "2"}, {"train.steps": "30"}], [7])
    (trials[1].folder / "checkpoints" / "last").mkdir(parents=True)
    for trial in trials:
        folder.train(trial, tmp_path / "data")
    assert caplog.messages == [
        "beta=2 seed 7: starts, at most 1000000 steps",
        "steps=30 seed 7: goes on, at most 30 steps",
    ]


@pytest.mark.parametrize(
    "written, error",
    [
        (
            "remi-fast: step 10 of 20: loss 1\nremi-fast train: no room\n",
            "remi-fast train: no room",
        ),
        ("remi-fast train: no room\nremi-fast: one more line\n", "remi-fast train: no room"),
        ("remi-fast: step 10 of 20: loss 1\n", "interrupted"),
    ],
)
def test_the_log_of_a_run_is_not_its_error(written, error, tmp_path, monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, "", written)

    monkeypatch.setattr(sweep.runs.subprocess, "run", run)
    folder = sweep.SweepFolder(tmp_path / "sweep", Config(), "data")
    (trial,) = folder.trials([{}], [1])
    assert folder.train(trial, tmp_path / "data") == error


def test_help_offers_no_resume(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    shown = capsys.readouterr().out
    assert "--resume" not in shown and "folder of the sweep, to make or to go on in" in shown


@pytest.mark.parametrize(
    "words, steps",
    [("--ablation demo", 3000), ("demo --ablation", 3000), ("data --out demo", 10**6)],
)
def test_a_sweep_of_the_demo_has_its_preset(words, steps, tmp_path, monkeypatch, made_up):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep.SweepFolder, "prepared", lambda folder, data: tmp_path / data)
    words = words.split() if "--out" in words else ["--out", "out", *words.split()]
    assert main(["sweep", *words, "--seeds", "1"]) == 0
    (config,) = tmp_path.glob("*/config.yaml")
    assert load_config(config).train.steps == steps and made_up


def test_without_matplotlib_a_sweep_ends_well(dataset, tmp_path, capsys, made_up, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "remi_fast.sweep.picture", raising=False)
    out = tmp_path / "sweep"
    assert main(["sweep", str(dataset.path), "--out", str(out), "--grid", "loss.beta=1,2"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("pip install 'remi-fast[sweep]'") == 1
    assert "picture.png" not in printed.out
    assert (out / "table.md").read_text().count("\n") == 4 and not (out / "picture.png").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--grid", "loss.betta=1,2"], "did you mean --loss.beta"),
        (["--jobs", "0"], "--jobs: got 0, expected 1 or more"),
        (["--sample", "0", "--grid", "loss.beta=1,2"], "--sample: got 0"),
        (["--ablation", "--loss.beta=0"], "--ablation: got loss.beta 0"),
        (["--optuna", "5"], "--optuna: got no --grid"),
        (["--resume"], "--resume: a sweep has no such option: repeat its command to resume it"),
        (["--resume", "--train.steps=400"], "repeat its command to resume it, without --resume"),
    ],
)
def test_bad_commands_leave_nothing_behind(words, message, dataset, tmp_path, capsys):
    assert main(["sweep", str(dataset.path), "--out", str(tmp_path / "sweep"), *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "sweep").exists()
