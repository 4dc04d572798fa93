"""SIGKILL at any moment: what was saved opens, and the run goes on to the same bits."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from remi_fast import api
from remi_fast.errors import RunFolderError
from remi_fast.training.run_folder import RunFolder
from tests.reliability.crashes import leftovers, traces


def moments(generator, clean, count):
    """Half of them in a call that writes, each call in turn; half at any time."""
    calls = generator.permutation(clean["calls"]) + 1
    for i in range(count):
        if i % 2:
            yield {"seconds": generator.uniform(0, clean["seconds"])}
        else:
            call = int(calls[i // 2 % len(calls)])
            yield {"first": call, "last": call}


def test_a_killed_run_goes_on_to_the_same_bits(doomed, at_scale, tmp_path, record_property):
    generator = np.random.default_rng(6)
    killed = inside = again = 0
    for moment in moments(generator, doomed.clean_train, at_scale(8, 540)):
        out = tmp_path / "runs" / "run"
        out.parent.mkdir()
        ended = doomed.train(out, **moment)
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
    assert killed >= at_scale(6, 500) and inside >= killed / 5


def test_a_killed_prepare_leaves_nothing_that_opens(doomed, at_scale, tmp_path, record_property):
    generator = np.random.default_rng(7)
    killed = 0
    for moment in moments(generator, doomed.clean_prepare, at_scale(6, 80)):
        ended = doomed.prepare(tmp_path / "data", **moment)
        killed += ended["error"] == "killed"
        assert ended["error"] in ("killed", None), ended
        doomed.check_prepares_again(tmp_path / "data")
        shutil.rmtree(tmp_path / "data")
    record_property("figures", f"{killed} killed")
    assert killed >= at_scale(4, 50)


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
