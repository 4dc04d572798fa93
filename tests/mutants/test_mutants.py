"""Every thirtieth mutant is killed; `python -m tests.mutants` runs them all.

In processes of their own: this one may have threads, which do not outlive a fork.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_planted_bugs_are_found():
    status, output = python("-m", "tests.mutants", "--every", "30")
    assert status == 0, output


JUDGE = """
from tests.mutants.killers import TRITON, rows
from tests.mutants.runner import Mutant, run
old = "base = base * base"
mutants = [
    Mutant("no change", TRITON, old, old + "  # squared", (rows(10.0),)),
    Mutant("unknown name", TRITON, old, "base = bass", (rows(10.0),)),
    Mutant("no Python", TRITON, old, "base = ", (rows(10.0),)),
    Mutant("no such test", TRITON, old, "base = base + base", (rows(7.0),)),
    Mutant("death", TRITON, "import triton\\n", "import os; os._exit(7)\\n", (rows(10.0),)),
]
for result in run(mutants, jobs=2):
    print(f"{result.mutant.name}: {result.verdict}")
run([Mutant("nowhere", TRITON, "base = bass", "", (rows(),))], jobs=1).__next__()
"""


def test_nothing_but_a_failing_test_kills():
    status, output = python("-c", JUDGE)
    for line in (
        "no change: survived",
        "unknown name: broken",
        "no Python: broken",
        "no such test: broken",
        "death: crashed",
        "Stale: nowhere: found 0 times",
    ):
        assert line in output
    assert status == 1
