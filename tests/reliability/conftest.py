"""A child process that opens hostile files, and what has to hold when it does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.crashes import Doomed

ROOT = Path(__file__).parent.parent.parent


class Opener:
    """The warm child process, see opener.py."""

    def __init__(self):
        self.start()

    def start(self):
        command = [sys.executable, "-m", "tests.reliability.opener"]
        pipe = subprocess.PIPE
        environment = os.environ | {"RUST_BACKTRACE": "0"}  # one takes 50 MB of symbols, once
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment
        )

    def __call__(self, what, path):
        self.process.stdin.write(json.dumps([what, str(path)]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        ended = self.process.wait()
        self.start()
        return {"error": "untyped end of the process", "message": f"status {ended}", "growth": 0}


@pytest.fixture(scope="session")
def opener():
    child = Opener()
    yield child
    child.process.stdin.close()
    child.process.wait()


@pytest.fixture
def refuse(opener, tmp_path):
    """refuse(what, path): the message of the refusal, which ran no code and took little memory."""

    def refuse(what, path):
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) + path.stat().st_size
        answer = opener(what, path)
        assert answer["error"] is not None, "it was opened"
        assert not answer["error"].startswith("untyped"), answer
        assert answer["growth"] <= (64 << 20) + 4 * size, answer
        assert not (tmp_path / "marker").exists(), "the file ran a command"
        return answer["message"]

    return refuse


@pytest.fixture
def folder(dataset, tmp_path):
    return Path(shutil.copytree(dataset.path, tmp_path / "data"))


@pytest.fixture(scope="session")
def doomed(tmp_path_factory):
    process = Doomed(tmp_path_factory.mktemp("doomed"))
    yield process
    process.close()
