"""A full disk (ENOSPC) and a failing one (EIO) at every call that writes: a typed error, and what
was committed before stands."""

import errno
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from remi_fast.errors import StorageError
from remi_fast.training.run_folder import MetricsLog, RunFolder
from tests.reliability.crashes import leftovers, traces

FOREVER = 10**9


def faults(calls, most, seed):
    """EIO of one call, or ENOSPC from one call on: at every call, or `most` of them at random."""
    every = [
        {"first": call, "last": last, "fault": fault}
        for call in range(1, calls + 1)
        for last, fault in ((call, errno.EIO), (FOREVER, errno.ENOSPC))
    ]
    chosen = np.random.default_rng(seed).permutation(len(every))[:most]
    return [every[i] for i in chosen]


def check(ended, folder, fault):
    """It was said what failed, and nothing half-written is left."""
    assert ended["error"] in ("StorageError", None), (fault, ended)
    if ended["error"] is None:  # there was another way to write it
        assert fault["last"] != FOREVER, (fault, ended)
    else:
        assert str(folder) in ended["message"], (fault, ended)
    assert [path for path in leftovers(folder) if not is_kept(path, fault)] == [], (fault, ended)


def is_kept(path, fault):
    """The version before: no rename brought it back, or the new one may not be on the disk yet."""
    path = Path(path)
    new = path.with_name(path.name.removeprefix(".").removesuffix(".old"))
    return path.suffix == ".old" and (fault["last"] == FOREVER or new.exists())


def test_a_run_survives_each_write_that_fails(doomed, at_scale, tmp_path, record_property):
    found = Counter()
    for fault in faults(doomed.clean_train["calls"], at_scale(8, None), seed=1):
        out = tmp_path / "runs" / "run"
        out.parent.mkdir()
        ended = doomed.train(out, **fault)
        check(ended, out.parent, fault)
        doomed.check_goes_on(out, ended["saved"])
        found[str(ended["error"])] += 1
        shutil.rmtree(out.parent)
    record_property("figures", f"{doomed.clean_train['calls']} calls, {dict(found)}")
    assert found["StorageError"] > 0.9 * found.total()


def test_prepare_survives_each_write_that_fails(doomed, at_scale, tmp_path, record_property):
    found = Counter()
    for fault in faults(doomed.clean_prepare["calls"], at_scale(6, None), seed=2):
        out = tmp_path / "data" / "out"
        out.parent.mkdir()
        ended = doomed.prepare(out, **fault)
        check(ended, out.parent, fault)
        doomed.check_prepares_again(out)
        found[str(ended["error"])] += 1
        shutil.rmtree(out.parent)
    record_property("figures", f"{doomed.clean_prepare['calls']} calls, {dict(found)}")
    assert found["StorageError"] > 0.9 * found.total()


def test_a_rename_that_fails_is_undone(doomed, tmp_path):
    call = doomed.clean_train["calls"] - 5  # the second of the last save
    fault = {"first": call, "last": call, "fault": errno.EIO}
    check(doomed.train(tmp_path / "run", **fault), tmp_path, fault)
    assert doomed.resume(tmp_path / "run")["at"] == 20


def test_a_log_line_that_does_not_fit_is_an_error(tmp_path):
    with MetricsLog(RunFolder(tmp_path), resume_step=0) as log:
        log.write({"step": 1})
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, log._file.fileno())
        os.close(full)
        with pytest.raises(StorageError, match="metrics.jsonl: cannot be written .*No space left"):
            log.write({"step": 2})


def test_a_run_does_without_tensorboard(doomed, at_scale, tmp_path):
    """Its thread has an error then, and the run goes on to the same bits without it."""
    calls = doomed.train(tmp_path / "clean", mirror=1)["calls"]
    assert calls > 1
    for number, fault in enumerate(faults(calls, at_scale(2, None), seed=3)):
        out = tmp_path / str(number)
        ended = doomed.train(out, mirror=1, **fault)
        assert ended["error"] is None and ended["calls"] >= fault["first"], (fault, ended)
        assert traces(out) == doomed.expected
