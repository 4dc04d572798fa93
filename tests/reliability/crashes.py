"""Runs that are killed or whose writes fail, and what has to hold afterwards."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from remi_fast.data.dataset import Dataset
from tests.conftest import interactions

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "samples_per_s", "train_seconds")


class Doomed:
    """The warm process, see doomed.py; `folder` gets the data and the run that nothing befell."""

    def __init__(self, folder):
        self.raw, self.data, self.whole = folder / "raw.parquet", folder / "data", folder / "whole"
        shim = folder / "faults.so"
        source = Path(__file__).with_name("faults.c")
        command = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", source, "-o", shim, "-ldl"]
        subprocess.run(command, check=True)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.doomed"],
            stdin=pipe,
            stdout=pipe,
            text=True,
            cwd=ROOT,
            env=os.environ | {"LD_PRELOAD": str(shim), "POLARS_MAX_THREADS": "1"},
        )
        interactions(users=60, topics=3, items_per_topic=6).write_parquet(self.raw)
        self.clean_prepare = self.prepare(self.data)
        self.clean_train = self.train(self.whole)
        assert self.clean_prepare["error"] is None, self.clean_prepare
        assert self.clean_train["error"] is None, self.clean_train
        self.expected = traces(self.whole)

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def _do(self, task, out, end, **paths):
        """Do it; the answer has the error and the counts.

        end: first, last, fault: which calls below out.parent fail, with which errno (0: killed);
        mirror=1: of TensorBoard's calls; seconds: killed after so many.
        """
        paths = {name: str(path) for name, path in paths.items()} | {"out": str(out)}
        order = {"task": task, "paths": paths, "below": str(out.parent)} | end
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def prepare(self, out, **end):
        return self._do("prepare", out, end, raw=self.raw)

    def train(self, out, **end):
        return self._do("train", out, end, data=self.data)

    def resume(self, out, **end):
        return self._do("resume", out, end)

    def check_goes_on(self, out, saved):
        """What was saved last opens, and the run goes on to the bits of the one nothing befell."""
        resumed = self.resume(out)
        if resumed["error"] == "RunFolderError":  # killed before the folder was there
            assert saved == 0 and not out.exists(), resumed
            resumed = self.train(out)
        else:
            assert resumed["error"] is None, resumed
            assert resumed["at"] >= saved, f"restored step {resumed['at']}, saved was {saved}"
        assert resumed["error"] is None, resumed
        assert traces(out) == self.expected
        assert leftovers(out.parent) == []

    def check_prepares_again(self, out):
        """There is nothing at `out`, or all of it; prepared again, it is as ever."""
        if out.exists():
            Dataset.open(out)
            shutil.rmtree(out)
        again = self.prepare(out)
        assert again["error"] is None, again
        assert contents(out) == contents(self.data)
        assert leftovers(out.parent) == []


def traces(run):
    """All that a run leaves, but times and places."""
    result = json.loads((run / "result.json").read_text())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    states = {
        name: json.loads((run / "checkpoints" / name / "state.json").read_text())
        for name in ("last", "best")
    }
    tensors = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted((run / "checkpoints").rglob("*.safetensors"))
    }
    return _timeless([result, [json.loads(line) for line in lines], states]), tensors


def _timeless(value):
    if isinstance(value, dict):
        dropped = (*TIMES, "crc32")  # of a text with times
        return {k: _timeless(v) for k, v in value.items() if k not in dropped}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(folder):
    return [str(path) for path in folder.rglob(".*")]
