"""Bad input: a typed error that says what, what was expected and where, or a documented result.

The tables are in tests/reliability/bad_input/. A command that is refused leaves every file as it
was, bit for bit, and no new one; what users meet is never a traceback.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from remi_fast.cli import main
from tests.conftest import interactions

from .bad_input import (
    arguments,
    benchmarks,
    evaluations,
    exports,
    losses,
    raw_files,
    recommendations,
    reports,
    runs,
    settings,
    sweeps,
)
from .bad_input.case import SMALL

ROOT = Path(__file__).parent.parent.parent
COMMANDS = [
    *raw_files.CASES,
    *settings.CASES,
    *runs.CASES,
    *recommendations.CASES,
    *sweeps.CASES,
    *evaluations.CASES,
    *reports.CASES,
    *exports.COMMANDS,
    *benchmarks.CASES,
]
CALLS = [*losses.CASES, *arguments.CASES, *exports.CALLS]
ALONE = {"NUL bytes alone", "an unknown key", "YAML that is not UTF-8", "where nothing can be read"}
WORLD = [
    "prepare raw.parquet --out data",
    "prepare raw.parquet --out other --seed 2",
    f"train raw.parquet --out run {SMALL}",
    f"train data --out wider {SMALL} --model.dim=16",
    f"train data --out fewer {SMALL} --model.num_interests=1",
    f"train other --out otherwise {SMALL}",
    f"train data --out weightless {SMALL} --train.checkpoints=none",
]


def pytest_generate_tests(metafunc):
    if "alone" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        cases = [case for case in COMMANDS if full or case.name in ALONE]
        metafunc.parametrize("alone", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with raw.parquet, a dataset, and runs, of which `run` holds its own data."""
    folder = tmp_path_factory.mktemp("world")
    interactions().write_parquet(folder / "raw.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in WORLD:
            assert main(shlex.split(words)) == 0
    return folder


@pytest.fixture
def working_folder(world, tmp_path, monkeypatch):
    """A copy of the world, in which the test runs."""
    folder = shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


def prepare(case, folder):
    for name, content in case.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    case.given(folder)


def snapshot(folder):
    """Every path in a folder, and what is in the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def check_message(case, message):
    for name, pattern in case.error.items():
        assert re.search(pattern, message, re.DOTALL), f"{name} {pattern!r} is not in: {message}"
    assert len(message) < 700, "too long to read"


def check_command(case, folder, before, status, out, err):
    assert "Traceback" not in err
    if case.result is not None:
        assert status == 0 and case.result(folder, out)
        return
    assert status == case.kind and out == ""
    assert err.startswith(f"remi-fast {case.do.split()[0]}: ") and err.count("\n") == 1
    check_message(case, err)
    after = snapshot(folder)
    assert after.keys() == before.keys(), "something was left behind, or is gone"
    assert after == before, "a file was changed"


@pytest.mark.parametrize("case", COMMANDS, ids=[case.name for case in COMMANDS])
def test_command(case, working_folder, capsys):
    prepare(case, working_folder)
    before = snapshot(working_folder)
    status = main(shlex.split(case.do))
    check_command(case, working_folder, before, status, *capsys.readouterr())


def test_command_in_a_process_of_its_own(alone, working_folder):
    prepare(alone, working_folder)
    before = snapshot(working_folder)
    done = subprocess.run(
        [sys.executable, "-m", "remi_fast.cli", *shlex.split(alone.do)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    check_command(alone, working_folder, before, done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("case", CALLS, ids=[case.name for case in CALLS])
def test_call(case, world, monkeypatch):
    monkeypatch.chdir(world)
    before = snapshot(world)
    if case.result is not None:
        assert case.result(case.do())
    else:
        with pytest.raises(case.kind) as caught:
            case.do()
        assert type(caught.value) is case.kind
        check_message(case, str(caught.value))
    assert snapshot(world) == before


def test_every_case_has_a_name_of_its_own():
    names = [case.name for case in [*COMMANDS, *CALLS]]
    assert len(names) == len(set(names)) and set(names) >= ALONE
