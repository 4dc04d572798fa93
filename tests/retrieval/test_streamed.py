"""Recommendations part by part: the same as at once, whatever happens in between."""

import os
import shlex
import shutil
import signal
import subprocess
import sys

import polars as pl
import pytest

import remi_fast
from remi_fast import files
from remi_fast.cli import main
from remi_fast.retrieval import streamed
from tests.conftest import interactions
from tests.reliability.bad_input.case import SMALL

WORDS = "recommend run --histories h.parquet --k 7 --exclude-seen --out out.parquet"
# Runs the command; the process is killed at its Nth atomic write.
KILLED = """
import os, signal, sys
from remi_fast import cli, files
from remi_fast.retrieval import streamed
streamed.USERS_A_PART = 40
left, write_file = [int(sys.argv[1])], files.write_file
def counted(path, write):
    left[0] -= 1
    def killed(temporary):
        write(temporary)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    write_file(path, killed)
files.write_file = counted
sys.exit(cli.main(sys.argv[2].split()))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run, and histories of which some items are unknown, as Parquet and CSV."""
    folder = tmp_path_factory.mktemp("world")
    histories = interactions()
    histories.write_parquet(folder / "raw.parquet")
    assert main(shlex.split(f"train {folder}/raw.parquet --out {folder}/run {SMALL}")) == 0
    unknown = pl.DataFrame({"user_id": [1, 1007], "item_id": ["new", "new"], "timestamp": [5, 5]})
    histories = pl.concat([histories, unknown]).sample(fraction=1, shuffle=True, seed=3)
    histories.write_parquet(folder / "h.parquet")
    histories.write_csv(folder / "h.csv")
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def killed_at(write):
    """The command, killed at this write; not at all below 0."""
    command = [sys.executable, "-c", KILLED, str(write), WORDS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def at_once(folder):
    histories = pl.read_parquet(folder / "h.parquet")
    return remi_fast.load(folder / "run").recommend(histories, k=7, exclude_seen=True)


def in_order(frame):
    return frame.sort("user_id", "rank")


@pytest.mark.parametrize("users", [10**6, 50, 7])
@pytest.mark.parametrize("source", ["h.parquet", "h.csv"])
@pytest.mark.parametrize("out", ["out.parquet", "out.csv", "out.jsonl"])
def test_parts_are_what_all_are(here, monkeypatch, caplog, source, out, users):
    monkeypatch.setattr(streamed, "USERS_A_PART", users)
    words = WORDS.replace("h.parquet", source).replace("out.parquet", out)
    assert main(words.split()) == 0
    readers = {"out.parquet": pl.read_parquet, "out.csv": pl.read_csv, "out.jsonl": pl.read_ndjson}
    rows = pl.read_parquet(here / "h.parquet").height
    assert f"2 of {rows} interactions" in caplog.text and "recommendations: 1" in caplog.text
    got, expected = readers[out](here / out), at_once(here)
    got = got.cast({"rank": pl.Int32, "interest": pl.Int32, "score": pl.Float32})
    if users == 10**6:
        assert got.equals(expected), "one part keeps the order of the users"
    assert in_order(got).equals(in_order(expected))
    assert not list(here.glob("*.parts"))


@pytest.mark.parametrize("write", [1, 2, 3, 6, 9, "last"])
def test_a_killed_command_goes_on(here, write):
    """Killed at the plan, at a part, at its counts, at the result: the same file as without."""
    parts = 1 + 301 // 40  # as approx_n_unique counts them, which is exact for so few
    number = 2 * parts + 2 if write == "last" else write
    killed = killed_at(number)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (here / "out.parquet").exists()
    done = len(list(here.glob("out.parquet.parts/*.json"))) - 1
    again = killed_at(-1)
    assert again.returncode == 0, again.stderr
    assert ("resuming from the finished parts" in again.stderr) == (done >= 0)
    assert done == max(-1, (number - 2) // 2 if write != "last" else parts)
    assert in_order(pl.read_parquet(here / "out.parquet")).equals(in_order(at_once(here)))
    assert "2 of " in again.stderr and not list(here.glob("*.parts"))


@pytest.mark.parametrize("change", ["--k 8", "h.parquet", "run", "size of a part"])
def test_parts_of_another_command_are_not_mixed_in(here, monkeypatch, capsys, change):
    assert killed_at(5).returncode == -signal.SIGKILL
    words = WORDS
    monkeypatch.setattr(streamed, "USERS_A_PART", 41 if change == "size of a part" else 40)
    if change == "--k 8":
        words = WORDS.replace("--k 7", "--k 8")
    elif change == "h.parquet":
        pl.read_parquet("h.parquet").head(200).write_parquet("h.parquet")
    elif change == "run":
        shutil.rmtree("run")
        main(shlex.split(f"train raw.parquet --out run {SMALL} --train.seed=5"))
    before = sorted(p.name for p in here.glob("out.parquet.parts/*"))
    assert main(words.split()) == 2
    message = capsys.readouterr().err
    assert "holds parts that another command left (" in message, message
    assert before == sorted(p.name for p in here.glob("out.parquet.parts/*"))


@pytest.mark.parametrize("out", ["out.parquet", "out/new/x.parquet"])
def test_an_error_leaves_nothing(here, capsys, out):
    pl.DataFrame({"user_id": [1] * 5, "item_id": ["new"] * 5}).write_parquet("h.parquet")
    assert main(WORDS.replace("out.parquet", out).split()) == 1
    assert "none of the 5 interactions" in capsys.readouterr().err
    assert not list(here.glob("out*"))


def test_nothing_known_in_one_part(here, monkeypatch):
    """Users without a known item have a part of their own, perhaps."""
    monkeypatch.setattr(streamed, "USERS_A_PART", 1)
    rows = [("a", "new"), ("b", "t0-1"), ("c", "new"), ("d", "t1-1")]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet("h.parquet")
    assert main(WORDS.split()) == 0
    assert set(pl.read_parquet("out.parquet")["user_id"]) == {"b", "d"}


@pytest.mark.parametrize("file", ["000001.parquet", "000001.json"])
def test_a_damaged_part_is_made_again(here, file):
    assert killed_at(9).returncode == -signal.SIGKILL
    path = here / "out.parquet.parts" / file
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)
    again = killed_at(-1)
    assert again.returncode == 0 and f"recreated: out.parquet.parts/{file}" in again.stderr
    assert in_order(pl.read_parquet(here / "out.parquet")).equals(in_order(at_once(here)))


def test_one_process_at_a_time(here, monkeypatch, capsys):
    monkeypatch.setattr(streamed, "USERS_A_PART", 40)
    assert killed_at(5).returncode == -signal.SIGKILL
    with files.locked(here / "out.parquet.parts") as mine:
        assert mine
        assert main(WORDS.split()) == 1
    assert "out.parquet: another process is writing it" in capsys.readouterr().err
    assert main(WORDS.split()) == 0
