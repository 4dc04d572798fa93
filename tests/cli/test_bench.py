"""`remi-fast bench PART`: options, errors, tables and files. The parts have tests of their own, and
`step` is run in tests/benchmark/test_steps.py."""

import json

import pytest

from remi_fast.benchmark import loader, resources
from remi_fast.cli import bench, main

QUICK = ["--rounds", "1", "--seconds", "0.001", "--peers", "none", "--threads", "1"]
SMALL = {
    "loss": ["--batch-size", "4", "--num-negatives", "8", "16", "--dim", "16"],
    "loader": ["--batch-size", "4", "8", "--users", "30"],
    "update": ["--num-items", "50", "90", "--batch-size", "2", "4"],
    "eval": ["--num-items", "200", "300", "--users", "3", "--k", "5"],
}
SHOWN = {
    "loss": ("loss: batch 4, 16 negatives, 4 interests of 16, beta 1, cpu, fp32", "peak MiB"),
    "loader": ("loader: batch 8, ", "interactions of 30 users", "samples/s"),
    "update": ("update: batch 4 (124 rows), cpu", "remi-fast, 90 items, uniform", "rows' traffic"),
    "eval": ("eval: 3 users, 4 interests of 64, top 5 of 300 items, cpu", "users/s", "0.00%"),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(resources.COPIED, "cpu", 1 << 16)
    monkeypatch.setattr(loader, "BATCHES_A_CALL", {"ours": 5, "numpy": 2, "published": 1})


@pytest.mark.parametrize("part", SMALL)
def test_a_part_prints_a_table_or_json(part, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    words = ["bench", part, *SMALL[part], *QUICK]
    assert main([*words, "--json", "--out", str(tmp_path / "a.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "a.json").read_text())
    assert [case["part"] for case in printed["cases"]] == [part] * 2
    assert {"torch", "cpu", "command"} <= printed["environment"].keys()
    for case in printed["cases"]:
        assert all(name.startswith("remi-fast") for name in case["contestants"])
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in SHOWN[part]:
        assert text in shown


def test_all_parts_come_into_one_file(tmp_path, capsys, monkeypatch):
    taken = {}
    for part in bench.module_of("all").PARTS:
        module = bench.module_of(part)
        monkeypatch.setattr(module, "check", lambda arguments, part=part: None)
        monkeypatch.setattr(
            module,
            "cases",
            lambda arguments, part=part: taken.update({part: arguments}) or [{"part": part}],
        )
    out = tmp_path / "all.json"
    words = ["bench", "all", "--num-items", "300", "400", "--batch-size", "8", "--rounds", "2"]
    assert main([*words, "--json", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [case["part"] for case in found["cases"]] == ["step", "loss", "loader", "update", "eval"]
    assert found == json.loads(capsys.readouterr().out)
    assert taken["step"].batch_size == taken["loss"].batch_size == [8]
    assert taken["eval"].num_items == [300, 400] and not hasattr(taken["loss"], "num_items")
    assert {part: options.rounds for part, options in taken.items()} == dict.fromkeys(taken, 2)
    assert taken["step"].seconds == 1.5 and taken["loss"].seconds == 0.3  # as in the part alone


def test_what_one_part_refuses_stops_all_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(bench.module_of("step"), "cases", lambda _: pytest.fail("was measured"))
    assert main(["bench", "all", "--num-items", "30", *QUICK]) == 2
    assert "--num-items: got [30], expected at least 51" in capsys.readouterr().err


def test_the_file_has_every_case_that_is_there(monkeypatch, tmp_path):
    def interrupted(arguments):
        yield {"part": "loss"}
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.module_of("loss"), "cases", interrupted)
    monkeypatch.setattr(bench.module_of("loss"), "show", lambda case: None)
    assert main(["bench", "loss", *QUICK, "--out", str(tmp_path / "a.json")]) == 130
    assert json.loads((tmp_path / "a.json").read_text())["cases"] == [{"part": "loss"}]


def test_who_takes_no_part_is_printed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    row = {"ms": 1234.5, "ratio": 123.4, "ratio_range": [0.5, 4321.0], "samples_per_s": 5}
    case = {"batch_size": 8, "users": 3, "interactions": 40, "contestants": {"remi-fast": row}}
    bench.module_of("loader").show(case | {"cannot": {"the other": "it is not installed"}})
    shown = capsys.readouterr().out
    assert "skipped: the other (it is not installed)" in shown
    assert "1,234" in shown and "123 (0.50 to 4,321)" in shown


def test_what_is_known_of_a_gpu_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    row = {"ms": 0.02, "ratio": 1.0, "ratio_range": [1.0, 1.0], "relative_error": 2.1e-3}
    row |= {"peak_bytes": 3 << 20, "captured": True, "share_of_floor": 0.251}
    peer = row | {"captured": False, "peak_bytes": None}
    del peer["share_of_floor"]
    case = {"batch_size": 8, "negatives": 80, "catalogue": True, "interests": 4, "dim": 64}
    case |= {"beta": 0.5, "device": "cuda", "precision": "bf16", "cannot": {}}
    case["contestants"] = {"remi-fast": row, "the other": peer}
    bench.module_of("loss").show(case)
    shown = capsys.readouterr().out
    assert "80 items of a whole catalogue, 4 interests of 64, beta 0.5, cuda, bf16" in shown
    lines = [line.replace("│", " ").split() for line in shown.splitlines()]
    common = ["0.020", "1.00", "(1.00", "to", "1.00)", "2e-03"]
    assert ["remi-fast", *common, "3.0", "25.1%", "yes"] in lines
    assert ["the", "other", *common, "?", "no"] in lines


def test_updates_that_no_graph_holds_are_marked(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    row = {"ms": 0.02, "ratio": 1.0, "ratio_range": [1.0, 1.0], "rows_per_s": 7}
    row |= {"traffic_by_time": 0.251, "captured": True}
    case = {"batch_size": 8, "rows": 248, "items": 90, "ids": "zipf", "device": "cuda"}
    case["contestants"] = {"remi-fast": row, "the other": row | {"captured": False}}
    bench.module_of("update").show(case | {"cannot": {}})
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    common = ["0.020", "7", "1.00", "(1.00", "to", "1.00)", "25.1%"]
    assert ["remi-fast", *common, "yes"] in lines
    assert ["the", "other", *common, "not", "captured"] in lines


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_names_the_parts(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *words])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and shown.startswith("usage: remi-fast bench [PART]")
    assert all(f"\n  {part} " in shown for part in bench.PARTS)


@pytest.mark.parametrize("part", bench.PARTS)
def test_a_part_has_help_of_its_own(part, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", part, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and shown.startswith(f"usage: remi-fast bench {part} [")
    assert all(option in shown for option in bench.options_of(part))


ERRORS = [
    ("lss", "got 'lss', which is no part, expected one of: step, loss, .* did you mean loss?"),
    ("--json loss", "got the part after options, expected it first"),
    ("loss --users 3", "--users: `bench loss` has no such option, expected it after "
     "`bench step` or `bench loader` or `bench eval`"),
    ("--beta=3", "--beta: `bench step` has no such option, expected it after `bench loss`"),
    ("all --k 3", "--k: `bench all` has no such option, expected it after `bench eval`"),
    ("loss --rond 3", "--rond: `bench loss` has no such option; did you mean --rounds?"),
    ("loss --batch-size x", "bench: --batch-size: got x, expected a whole number"),
    ("loss --batch-size 0", "--batch-size: got [0], expected at least 1"),
    ("loss --precision bf16", "bench: --precision: got 'bf16' on a CPU, expected 'fp32'"),
    ("loss --num-negatives 5 --catalogue 7", "--num-negatives and --catalogue: got both"),
    ("loss --num-negatives 1", "--num-negatives: got [1], expected at least 2"),
    ("loss --catalogue 1", "--catalogue: got 1, expected at least 2"),
    ("loss --beta -1", "--beta: got -1.0, expected a finite number of at least 0"),
    ("loss --batch-size 10000000 --catalogue 10000000", "vectors and scores need"),
    ("update --num-items 1", "--num-items: got [1], expected at least 2"),
    ("update --num-items 10000000000000", "all tables together need"),
    ("loader --users 3", "--users: got 3, expected at least the batch size, 128"),
    ("loader --users 100000000000000", "the interactions need"),
    ("eval --num-items 50", "--num-items: got [50], expected at least 51"),
    ("eval --num-items 10000000000000", "vectors and scores need"),
    ("eval --seconds 0", "--seconds: got 0.0, expected more than 0, below 3600"),
    ("loss --out x.txt", "--out: got 'x.txt', expected a name that ends in .json"),
    ("loss --out /no/x.json", "/no: no such folder, expected one for --out"),
    ("loss --out /proc/x.json", "/proc/x.json: cannot be written ("),
    ("step --picture /proc/x.png", "/proc/x.png: cannot be written ("),
]  # fmt: skip


@pytest.mark.parametrize("words, message", ERRORS, ids=[words for words, _ in ERRORS])
def test_errors_say_what_was_expected(words, message, capsys):
    assert main(["bench", *words.split()]) in (1, 2)
    said = capsys.readouterr().err
    first, _, second = message.partition(".* ")
    assert first in said and second in said
