"""The examples of the documentation run, and learn what they show."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def lines(example, *arguments):
    command = [sys.executable, f"docs/{example}.py", *arguments]
    environment = {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def output(example, *arguments):
    return [float(line.split()[-1]) for line in lines(example, *arguments)]


def test_a_model_of_ones_own_trains():
    told = lines("own_model_example", "300")
    before, loss, after = (float(line.split()[-1]) for line in told)
    assert after > before + 0.1 and told[0].startswith("validation recall@50 before training: ")
    assert told[1] == f"step 200 of 300, loss: {loss:.4f}"


def test_a_model_that_is_not_ours_trains():
    losses = output("adopt_example")
    assert losses[-1] < losses[0] / 2


def test_the_whole_story():
    told = dict(line.split(": ", 1) for line in lines("story_example", "300") if ": " in line)
    assert told["users, items, interactions"] == "[8000, 5438, 198388]"
    assert float(told["remi, test recall@50"]) > float(told["plain, test recall@50"]) + 0.02
    assert int(told["report, bytes"]) > 100_000
    assert "user_encoder.pt2" in told["exported"]
    lists = [told[f"recommended with diversity {coefficient}"] for coefficient in (0.0, 1.0)]
    assert lists[0] != lists[1]
    assert all("topic-003-item-01" not in each for each in lists)  # seen
