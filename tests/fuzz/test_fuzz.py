"""Some damaged inputs of every kind, those that were trouble once, and what counts as trouble.

In processes of their own: this one may have threads, which do not outlive a fork.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["dataset", "text", "checkpoint", "config"])
def test_damaged_inputs_open_or_are_refused(target, at_scale):
    inputs = str(at_scale(300, 1_000_000))
    status, output = python("-m", "tests.fuzz", target, "--inputs", inputs)
    print(f"{target}: {output}")  # noqa: T201
    assert status == 0 and f"{inputs} inputs" in output, output


JUDGE = """
import os, sys, time
from pathlib import Path
from remi_fast.errors import DataError
from tests.fuzz.runner import run
from tests.fuzz.targets import Target
inputs = [b"good", b"refused", b"untyped", b"dies", b"hangs", b"takes memory", b"good"]
def open_(folder):
    match (folder / "x").read_bytes():
        case b"refused": raise DataError("no")
        case b"untyped": raise KeyError("x")
        case b"dies": os.abort()
        case b"hangs": time.sleep(60)
        case b"takes memory": bytearray(80 << 20).count(1)
make = lambda: Target({"x": b"good"}, None, open_)
report = run(make, lambda _, n: {"x": inputs[n]}, len(inputs), Path(sys.argv[1]), hangs=1)
print(report, *report.findings, sep="\\n")
"""


def test_all_but_opening_and_refusing_is_a_finding(tmp_path):
    status, output = python("-c", JUDGE, str(tmp_path / "corpus"))
    assert status == 0, output
    assert "7 inputs, 2 opened, 1 refused, 4 findings" in output
    for finding in ("KeyError: 'x'", "died with status -6", "hangs", "took "):
        assert finding in output, output
    kept = sorted((tmp_path / "corpus").glob("*/x"))
    assert [x.read_bytes() for x in kept] == [b"untyped", b"dies", b"hangs", b"takes memory"]
