"""Opens input after input in a child process, which may die or hang: the next child goes on."""

import mmap
import os
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from remi_fast.errors import RemiFastError
from tests.fuzz.targets import MEMORY, Files, Target
from tests.memory import reset_peak

FREE_MEMORY = 64 << 20
HANGS = 30.0  # seconds without an input done
MOST = 20  # findings, then it ends
OF_A_CHILD = 50_000  # inputs: safetensors loses 64 bytes a tensor that it reads

_BROKEN = 2  # exit status of a child that is at fault itself

# Of a child, in memory that it shares: inputs done, opened, refused.
_COUNTS = struct.Struct("3q")


class Report:
    """What became of some inputs."""

    def __init__(self) -> None:
        self.inputs = self.opened = self.refused = 0
        self.findings: list[str] = []  # what happened, one a finding
        self.seconds = 0.0

    def __str__(self) -> str:
        rate = self.inputs / max(self.seconds, 1e-9)
        return (
            f"{self.inputs} inputs, {self.opened} opened, {self.refused} refused, "
            f"{len(self.findings)} findings; {rate:.0f} a second"
        )


Inputs = Callable[[Target, int], Files]


def run(
    make: Callable[[], Target], inputs: Inputs, count: int, keep: Path | None, hangs: float = HANGS
) -> Report:
    """Open inputs(target, 0..count-1); a folder in `keep`, if given, for each finding."""
    report = Report()
    shared = mmap.mmap(-1, _COUNTS.size)
    with tempfile.TemporaryDirectory(dir=MEMORY) as work:
        start = time.monotonic()
        while report.inputs < count and len(report.findings) < MOST:
            first = report.inputs
            shared[:] = _COUNTS.pack(first, 0, 0)
            child = os.fork()
            if child == 0:
                _work(make, inputs, first, min(count, first + OF_A_CHILD), Path(work), shared)
            status = _wait(child, shared, hangs)
            done, opened, refused = _COUNTS.unpack(shared)
            report.inputs, report.opened = done, report.opened + opened
            report.refused += refused
            if status == _BROKEN:
                raise RuntimeError(f"the fuzzer itself: {(Path(work) / 'finding').read_text()}")
            if status != 0:
                report.findings.append(_kept(Path(work), done, status, keep))
                report.inputs += 1  # the one that was being opened
        report.seconds = time.monotonic() - start
    return report


def _wait(child: int, shared: mmap.mmap, hangs: float) -> int:
    """The exit status of a child, 0 if all is well; one without progress is killed."""
    seen, since = shared[:], time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if shared[:] != seen:
            seen, since = shared[:], time.monotonic()
        elif time.monotonic() - since > hangs:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGALRM
        time.sleep(0.01)


def _kept(work: Path, number: int, status: int, keep: Path | None) -> str:
    """What happened with input `number`, and where it is now."""
    said = work / "finding"
    if status == -signal.SIGALRM:
        what = "hangs"
    else:
        what = said.read_text() if said.exists() else f"died with status {status}"
    said.unlink(missing_ok=True)
    if keep is None:
        return f"input {number}: {what}"
    folder = keep / f"{len(list(keep.glob('*'))):03d}"
    shutil.copytree(work / "input", folder)
    return f"input {number}, kept as {folder}: {what}"


def _work(
    make: Callable[[], Target],
    inputs: Inputs,
    first: int,
    end: int,
    work: Path,
    shared: mmap.mmap,
) -> None:
    """In the child: ends after the last input, or at a finding."""
    try:
        os.environ["RUST_BACKTRACE"] = "0"  # or the first panic of polars loads 60 MB of symbols
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where panics print
        target = make()
        folder = work / "input"
        written = _write(folder, {}, target.good)
        target.open(folder)  # what is not damaged has to open
        reset_peak()
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        opened = refused = 0
        for number in range(first, end):
            written = _write(folder, written, inputs(target, number))
            finding = None
            try:
                target.open(folder)
                opened += 1
            except RemiFastError:
                refused += 1
            except BaseException:  # a panic of polars is no Exception
                finding = traceback.format_exc()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            if peak - size > FREE_MEMORY + 4 * sum(map(len, written.values())):
                finding = f"took {peak - size} bytes"
            if finding:
                (work / "finding").write_text(finding)
                os._exit(1)
            shared[:] = _COUNTS.pack(number + 1, opened, refused)
        os._exit(0)
    except BaseException:
        (work / "finding").write_text(traceback.format_exc())
        os._exit(_BROKEN)


def _write(folder: Path, old: Files, new: Files) -> Files:
    """Make a folder that holds `old` hold `new`."""
    folder.mkdir(exist_ok=True)
    for name in old.keys() - new.keys():
        (folder / name).unlink()
    for name, content in new.items():
        if old.get(name) != content:
            (folder / name).write_bytes(content)
    return new
