"""The command line as its user meets it."""

import json
import logging
import re

import polars as pl
import pytest

from remi_fast import api
from remi_fast.cli import COMMANDS, main

SMALL = [
    "--model.dim=8",
    "--model.num_interests=2",
    "--loss.num_negatives=32",
    "--train.batch_size=16",
    "--train.steps=20",
    "--train.eval_every=10",
]


@pytest.fixture(scope="module")
def trained(raw_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    assert main(["prepare", str(raw_file), "--out", str(folder / "data")]) == 0
    assert main(["train", str(folder / "data"), "--out", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0 and f"remi-fast {command}" in capsys.readouterr().out


def test_help_leaves_out_defaults_that_say_nothing(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert not re.search(r"default: null|default: \[\]|\(default: False", text)
    assert "type: bool, default: False" in text and "type: int, default: 50" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_is_short(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    usage, _, _ = capsys.readouterr().out.partition("\n\n")
    assert usage.count("\n") <= 1 and "ptions]" in usage.casefold()
    if command == "train":
        assert usage == "usage: remi-fast train [options] --out RUN [DATA]"


def test_overview(capsys):
    assert main(["--help"]) == 0 and main([]) == 2
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert main(["--version"]) == 0 and "remi-fast 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["trian"], 2, "did you mean train?"),
        (["train", "demo", "--out", "x", "--loss.betta=1"], 2, "did you mean --loss.beta?"),
        (["train", "demo", "--out", "x", "--train.step=3"], 2, "did you mean --train.steps?"),
        (["prepare", "x.csv", "--out", "x", "--item-cl", "i"], 2, "did you mean --item-col?"),
        (["train", "demo", "--out", "x", "--train.steps=0"], 2, "train.steps: got 0"),
        (["train", "demo", "--out", "x", "--preset", "gowala"], 2, "did you mean gowalla?"),
        (["train", "demo", "--out", "x", "--config"], 2, "expected a value after it"),
        (["train", "--out", "x"], 2, "DATA: got nothing"),
        (["train", "demo"], 2, "the following arguments are required: --out"),
        (["export"], 2, "the following arguments are required: run, --out"),
        (["train", "demo", "more", "--out", "x"], 2, "unrecognized arguments: more\n"),
        (
            ["prepare", "x", "--out", "x", "--filter", "kcore"],
            2,
            "--filter: got 'kcore', expected one of one-pass, k-core, none; did you mean k-core?",
        ),
        (
            ["train", "demo", "--out", "x", "--loss.sampler=unifrom"],
            2,
            "mixed, full; did you mean uniform?",
        ),
        (["prepare", "x", "--out", "x", "--min-item"], 2, "--min-item: got nothing, expected a "),
        (["recommend", "x", "--sample", "a"], 2, "--sample: got a, expected a whole number"),
        (["train", "--out", "nowhere", "--resume"], 1, "nowhere: no such folder"),
        (["train", "demo", "--out", "x", "--resume"], 1, "x: no such folder"),
        (["train", "demo", "--out", "x", "--resume", "--loss.beta=1"], 1, "x: no such folder"),
        (["train", "nothing.csv", "--out", "x"], 1, "nothing.csv: no such file"),
        (["prepare", "nothing.csv", "--out", "x"], 1, "nothing.csv: no such file"),
        (["evaluate", "nowhere"], 1, "nowhere: no such folder"),
        (["evaluate", "nowhere", "--k", "20", "0"], 2, "expected cut-offs >= 1"),
        (["recommend", "nowhere"], 2, "expected one of --histories FILE and --sample N"),
        (["recommend", "nowhere", "--sample", "1", "--out", "x.txt"], 2, ".parquet, .csv, .jsonl"),
    ],
)
def test_errors(words, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == status
    error = capsys.readouterr().err
    assert message in error and error.startswith("remi-fast") and "Traceback" not in error
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_prepare_says_how_many_users_lack_history(tmp_path, capsys):
    rows = [(user, item) for user in range(9) for item in range(1 + user % 3)]  # 1 to 3 items
    file = tmp_path / "few.csv"
    file.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in rows))
    words = ["--filter", "none", "--split", "leave-one-out"]
    assert main(["prepare", str(file), "--out", str(tmp_path / "data"), *words]) == 0
    shown = capsys.readouterr().out
    assert "users left out of a split for lack of history: train 6, valid 6, test 3" in shown


def test_prepare_warns_of_a_split_without_users(tmp_path, capsys, caplog):
    file = tmp_path / "once.csv"
    rows = "".join(f"{user},{item},{user}\n" for user in range(20) for item in range(5))
    file.write_text("user_id,item_id,timestamp\n" + rows)
    for split, warnings in (("temporal", ["valid", "test"]), ("users", [])):
        words = ["prepare", str(file), "--out", str(tmp_path / split), "--split", split, "--json"]
        assert main(words) == 0
        json.loads(capsys.readouterr().out)
        told = [record.getMessage() for record in caplog.records]
        assert [re.search("the (.*) split has no users", each)[1] for each in told] == warnings
        caplog.clear()


def test_prepare_prints_its_numbers(raw_file, tmp_path, capsys):
    assert main(["prepare", str(raw_file), "--out", str(tmp_path / "a")]) == 0
    text = capsys.readouterr().out
    assert "items with >= 5" in text and "300 users" in text and "median" in text
    assert re.search("^columns: user 'user_id', item 'item_id', time 'timestamp'$", text, re.M)
    words = [
        "prepare",
        str(raw_file),
        "--out",
        str(tmp_path / "b"),
        "--split",
        "temporal",
        "--json",
    ]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"]["split"] == "temporal" and printed["counts"]["users"] == 300


def test_train_then_evaluate(trained, capsys):
    assert main(["evaluate", str(trained), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    expected = json.loads((trained / "result.json").read_text())["test"]
    assert metrics == {"split": "test"} | expected
    assert main(["evaluate", str(trained), "--split", "valid", "--k", "5", "7"]) == 0
    text = capsys.readouterr().out
    assert "recall@5" in text and "ndcg@7" in text


def test_evaluate_in_detail(trained, tmp_path, capsys):
    items = pl.read_parquet(trained / "items.parquet")
    kinds = items.select("item_id", category=pl.col("item_id").str.slice(0, 2))
    kinds.write_csv(tmp_path / "kinds.csv")
    words = ["evaluate", str(trained), "--diversity", "0", "0.5", "--all-metrics", "--groups"]
    assert main([*words, "--categories", str(tmp_path / "kinds.csv"), "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    plain = json.loads((trained / "result.json").read_text())["test"]
    assert {name: got[name] for name in plain} == plain
    assert {"coverage@20", "gini@50", "novelty@20", "diversity@50", "groups"} <= got.keys()
    first, second = got["diversity"]
    assert first["recall@50"] == plain["recall@50"] and second["coefficient"] == 0.5
    assert second["diversity@20"] > first["diversity@20"]
    assert main(words) == 0  # categories are clusters of the items
    text = capsys.readouterr().out
    assert "targets by popularity" in text and "lists by coefficient" in text
    assert main(["evaluate", str(trained), "--groups", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"split", "groups", *plain}


def test_evaluate_against_another_run(trained, tmp_path, capsys):
    data, other = str(trained.parent / "data"), str(tmp_path / "other")
    assert main(["train", data, "--out", other, *SMALL, "--train.seed=5"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(trained), "--against", other, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    mine = json.loads((trained / "result.json").read_text())["test"]
    others = json.loads((tmp_path / "other" / "result.json").read_text())["test"]
    assert (got["users"], got["identical"]) == (mine["users"], False)
    for name in mine.keys() - {"users"}:
        assert got[name]["first"] == pytest.approx(mine[name])
        assert got[name]["difference"] == pytest.approx(mine[name] - others[name])
        assert got[name]["low"] <= got[name]["difference"] <= got[name]["high"]
    assert main(["evaluate", str(trained), "--against", other]) == 0
    text = capsys.readouterr().out
    assert "95 % interval" in text and "identical" not in text


def test_train_refuses_an_existing_run_and_resumes_it(trained, capsys):
    before = (trained / "metrics.jsonl").read_text()
    data = str(trained.parent / "data")
    assert main(["train", data, "--out", str(trained), *SMALL]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert main(["train", "--out", str(trained), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 20
    assert (trained / "metrics.jsonl").read_text() == before


def test_the_same_command_resumes_its_run_but_no_other(trained, raw_file, tmp_path, capsys):
    data, out = str(trained.parent / "data"), ["--out", str(trained)]
    for words in (
        [data, *out, *SMALL],
        [f"{data}/../data", *out],
        [*out, *reversed(SMALL)],
        [data, *out, "--config", str(trained / "config.yaml")],
    ):
        assert main(["train", *words, "--resume", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["train"]["steps"] == 20
    for words, message in (
        ([data, *out, *SMALL[1:]], "--resume: got '--model.num_interests=2', expected no settings"),
        ([*out, *SMALL, "--train.steps=30"], "--resume: got '--model.dim=8', expected no settings"),
        (["demo", *out], f"--resume: got DATA 'demo', expected none, or '{data}'"),
        ([str(raw_file), *out], "expected none, or"),
    ):
        assert main(["train", *words, "--resume"]) == 2
        assert message in capsys.readouterr().err
    raw = ["train", str(raw_file), "--out", str(tmp_path / "raw"), *SMALL]
    assert main(raw) == 0 and main([*raw, "--resume"]) == 0
    assert main(["train", "demo", "--out", str(tmp_path / "raw"), "--resume"]) == 2
    assert f"or '{raw_file.name}'" in capsys.readouterr().err


def test_the_command_of_the_demo_resumes_it(tmp_path, capsys):
    words = ["train", "demo", "--out", str(tmp_path / "demo"), "--train.steps=1", "--json"]
    words += ["--train.eval_users=20"]
    assert main(words) == 0
    result = capsys.readouterr().out
    for more in (words, words[:4]):
        assert main([*more, "--resume", "--json"]) == 0
        assert capsys.readouterr().out == result


def test_later_settings_win_wherever_they_stand(raw_file, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text("loss: {beta: 0.5}\ntrain: {steps: 11}\n")
    words = ["train", str(raw_file), *SMALL, "--config", str(config), "--out", str(tmp_path / "r")]
    assert main([*words, "--preset=gowalla", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 20  # option over file
    text = (tmp_path / "r" / "config.yaml").read_text()
    assert "beta: 0.5" in text and "max_history: 40" in text  # file over preset over default


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_recommend_to_a_file(trained, tmp_path, suffix, capsys):
    histories = tmp_path / "histories.csv"
    histories.write_text("user_id,item_id\nnew,t0-1\nnew,t0-2\nother,t3-4\nnew,unknown\n")
    out = tmp_path / "sub" / f"out{suffix}"
    words = ["recommend", str(trained), "--histories", str(histories), "--k", "4"]
    assert main([*words, "--out", str(out)]) == 0
    assert "8 recommendations for 2 users" in capsys.readouterr().out
    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
    got = readers[suffix](out)
    assert got["user_id"].unique(maintain_order=True).to_list() == ["new", "other"]
    assert got["item_id"].str.starts_with("t").all()


def test_recommend_prints(trained, tmp_path, capsys):
    assert main(["recommend", str(trained), "--sample", "2", "--k", "3", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 6 and {"user_id", "item_id", "score", "rank", "interest"} == set(lines[0])
    assert main(["recommend", str(trained), "--sample", "1", "--k", "3"]) == 0
    assert "history" in capsys.readouterr().out
    unknown = tmp_path / "h.csv"
    unknown.write_text("user_id,item_id\nnew,nothing\n")
    assert main(["recommend", str(trained), "--histories", str(unknown)]) == 1
    assert "none of the 1 interactions" in capsys.readouterr().err


def test_a_warning_says_that_it_is_one(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    histories = tmp_path / "h.csv"
    histories.write_text("user_id,item_id\nnew,t0-1\nnew,nothing\n")
    assert main(["recommend", str(trained), "--histories", str(histories), "--json"]) == 0
    assert capsys.readouterr().err.startswith("remi-fast: warning: 1 of 2 interactions are with ")
    logging.getLogger("remi_fast.training.progress").info("step 10 of 20")
    assert capsys.readouterr().err == "remi-fast: step 10 of 20\n"


def test_info(capsys):
    assert main(["info", "--json"]) == 0
    assert {"torch", "cpu", "backends", "extension"} <= json.loads(capsys.readouterr().out).keys()
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "native" in shown and "not yet run on one" in shown


@pytest.mark.parametrize("kept", [True, False])
def test_after_an_interrupt_it_says_how_to_continue(kept, tmp_path, monkeypatch, capsys):
    def interrupted(data, out, config):
        (tmp_path / "checkpoints" / ("last" if kept else "best")).mkdir(parents=True)
        return {"interrupted": True, "step": 3}

    monkeypatch.setattr(api, "train", interrupted)
    assert main(["train", "data", "--out", str(tmp_path)]) == 130
    text = capsys.readouterr().out
    assert "interrupted after step 3" in text and ("--resume" in text) == kept
