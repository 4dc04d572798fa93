"""SIGKILL at any moment: what was saved opens, and the run goes on to the same bits."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from remi_fast import api
from remi_fast.errors import RunFolderError
from remi_fast.training.run_folder import RunFolder
from tests.reliability.crashes import leftovers, traces


def moments(generator, clean):
    """In turns in a call that writes, every call once in so many, and at any time."""
    while True:
        for call in generator.permutation(clean["calls"]) + 1:
            yield {"first": int(call), "last": int(call)}
            yield {"seconds": generator.uniform(0, clean["seconds"])}


def test_a_killed_run_goes_on_to_the_same_bits(doomed, at_scale, tmp_path, record_property):
    generator = np.random.default_rng(6)
    killed = inside = again = 0
    when = moments(generator, doomed.clean_train)
    while killed < at_scale(8, 500):  # a run may end before its moment
        out = tmp_path / "runs" / "run"
        out.parent.mkdir()
        ended = doomed.train(out, **next(when))
        saved = ended["saved"]
        killed += ended["error"] == "killed"
        inside += ended["error"] == "killed" and ended["saving"]
        assert ended["error"] in ("killed", None), ended
        if ended["error"] == "killed" and generator.random() < 0.3:
            ended = doomed.resume(out, seconds=generator.uniform(0, doomed.clean_train["seconds"]))
            saved = max(saved, ended["saved"])
            again += ended["error"] == "killed"
            assert ended["error"] in ("killed", "RunFolderError", None), ended
        doomed.check_goes_on(out, saved)
        shutil.rmtree(out.parent)
    record_property("figures", f"{killed} killed, {inside} in a save, {again} again on resuming")
    assert inside >= killed / 5


def test_a_killed_prepare_leaves_nothing_that_opens(doomed, at_scale, tmp_path, record_property):
    generator = np.random.default_rng(7)
    killed = 0
    when = moments(generator, doomed.clean_prepare)
    while killed < at_scale(5, 50):
        ended = doomed.prepare(tmp_path / "data", **next(when))
        killed += ended["error"] == "killed"
        assert ended["error"] in ("killed", None), ended
        doomed.check_prepares_again(tmp_path / "data")
        shutil.rmtree(tmp_path / "data")
    record_property("figures", f"{killed} killed")


@pytest.mark.parametrize(
    "from_end, left",
    [
        (5, {".last.old", ".last.tmp-"}),  # between the renames of the last save
        (4, {".last.old"}),
        (2, {".result.json.tmp-"}),
    ],
)
def test_what_a_killed_process_left_is_cleared(doomed, tmp_path, from_end, left):
    call = doomed.clean_train["calls"] - from_end
    killed = doomed.train(tmp_path / "run", first=call, last=call)
    found = {Path(path).name.rstrip("0123456789") for path in leftovers(tmp_path)}
    assert killed["error"] == "killed" and found == left
    doomed.check_goes_on(tmp_path / "run", killed["saved"])


def test_a_killed_command_goes_on_with_resume(doomed, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "remi_fast.cli", "train", "--out", str(run)]
    config = ["--config", str(doomed.whole / "config.yaml")]
    process = subprocess.Popen([*command, str(doomed.data), *config])
    while process.poll() is None and not (run / "checkpoints" / "last").exists():
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "--resume"], check=True)
    assert traces(run)[1] == doomed.expected[1]
    assert leftovers(tmp_path) == []


def test_one_process_trains_in_a_folder(doomed, tmp_path):
    run = tmp_path / "run"
    assert doomed.train(run, first=100, last=100)["error"] == "killed"
    with RunFolder.open(run).training():
        second = doomed.resume(run)
        assert second["error"] == "RunFolderError" and "another process" in second["message"]
        with pytest.raises(RunFolderError, match=f"{run}: another process is training in it"):
            api.resume(run)
    doomed.check_goes_on(run, saved=4)


def test_who_reads_between_two_renames_reads_the_old_weights(doomed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(doomed.whole, run)
    best, aside = run / "checkpoints" / "best", run / "checkpoints" / ".best.old"
    best.rename(aside)
    api.load(run)
    assert aside.exists() and not best.exists()  # for the run that is about to put it there
    (best / "new").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="not a checkpoint"):
        api.load(run)
    assert aside.exists()
