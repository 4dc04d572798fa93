"""Run what waits for a GPU, piece by piece, each within its own time; go on where it was left.

    sh bench/run_gpu.sh [--plan | --rehearse] [--again] [--within S] [--limit S] [--jobs N]
                        [PIECE...]

A piece that passed is skipped. Results are bench/results/gpu_PIECE.json, gpu_pieces.json says how
each piece ended, the output is build/gpu/PIECE.log; where OUT names a folder, all of it is in
$OUT/gpu_results.tgz after every piece, to be unpacked at the root of the repository.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree

from bench import results
from bench.gpu_pieces import DATA, ROOT, Piece, chosen

LOGS = ROOT / "build" / "gpu"
REHEARSAL = ROOT / "build" / "rehearsal"
SHOWN = 25  # last lines of a piece's output
PATIENCE = 10  # seconds between asking a piece that is late to end and ending it
PASSED, FAILED, LATE, CANNOT, WAITING = "passed", "failed", "out of time", "cannot", "not started"


class Index:
    """How each piece ended: gpu_pieces.json beside the results."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "gpu_pieces.json"
        self.ended: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self.ended = json.loads(self._path.read_text(encoding="utf-8"))

    def passed(self, piece: Piece) -> bool:
        return self.ended.get(piece.name, {}).get("status") == PASSED

    def record(self, piece: Piece, ending: dict[str, Any]) -> None:
        self.ended[piece.name] = ending
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.ended, indent=1) + "\n", encoding="utf-8")


def free_gpu_memory() -> int:
    """Bytes; 0 where there is no GPU. In a process of its own, which gives all back."""
    code = "import torch; print(torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or 0)


@cache
def cannot_watch(program: str) -> str:
    """Why the program (compute-sanitizer) cannot run others on this GPU; empty where it can."""
    if shutil.which(program) is None:
        return f"{program} is not installed"
    command = [program, sys.executable, "-c", "import torch; torch.ones(9, device='cuda').sum()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{program}: {done.stdout.strip()[-200:]}"


def unable(piece: Piece, free: int, rehearsal: bool) -> str:
    """Why the piece cannot run here; empty where it can."""
    if DATA in piece.command and not os.environ.get("REMI_FAST_DATA"):
        return "REMI_FAST_DATA names no folder made by `remi-fast prepare`"
    if rehearsal:
        return ""
    if piece.under and (reason := cannot_watch(piece.under[0])):
        return reason
    if free < piece.gib << 30:
        return f"needs {piece.gib} GiB of GPU memory, {free / 2**30:.0f} are free"
    return ""


def words(piece: Piece, report: Path, rehearsal: bool) -> list[str]:
    """The command line."""
    given = [os.environ.get("REMI_FAST_DATA", "") if w == DATA else w for w in piece.command]
    if piece.is_test:
        given.append(f"--junitxml={report}")
    under = [] if rehearsal else piece.under
    return [*under, sys.executable, "-m", *given, *(piece.small if rehearsal else ())]


def end(process: int) -> None:
    """Kill the process and all that it has started."""
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process, signal.SIGKILL)


def run(piece: Piece, logs: Path, rehearsal: bool, running: set[int]) -> dict[str, Any]:
    """Run the piece within its limit, as one of `running`; its output goes to a file of `logs`."""
    logs.mkdir(parents=True, exist_ok=True)
    report = logs / f"{piece.name}.xml"
    report.unlink(missing_ok=True)
    start = time.monotonic()
    with open(logs / f"{piece.name}.log", "wb") as log:
        process = subprocess.Popen(
            words(piece, report, rehearsal),
            cwd=ROOT,
            env=os.environ | ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if piece.under else {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # what it starts ends with it
        )
        running.add(process.pid)
        try:
            status = PASSED if process.wait(piece.limit) == 0 else FAILED
        except subprocess.TimeoutExpired:
            status = LATE
            os.killpg(process.pid, signal.SIGINT)  # pytest reports how far it came
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        finally:
            end(process.pid)
            process.wait()
            running.discard(process.pid)
    ending = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    if piece.is_test and report.exists() and not rehearsal:
        tests = tests_of(report)
        results.save(f"gpu_{piece.name}", ending | tests)
        ending["tests"] = tests["tests"]
        if status == PASSED and not tests["tests"]["passed"]:
            reasons = "; ".join(tests["skipped because"])
            ending |= {"status": CANNOT, "why": f"no test ran: {reasons}"}
    return ending | {"commit": results.commit()}


def tests_of(report: Path) -> dict[str, Any]:
    """Numbers, failed tests and why tests were skipped, from pytest's report."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed, skipped = [], set()
    for case in ElementTree.parse(report).iter("testcase"):
        if case.get("name") is None:  # it was interrupted
            continue
        outcome = {child.tag: child for child in case}
        if "failure" in outcome or "error" in outcome:
            counts["failed"] += 1
            failed.append(case.get("name"))
        elif "skipped" in outcome:
            counts["skipped"] += 1
            skipped.add(outcome["skipped"].get("message"))
        else:
            counts["passed"] += 1
    return {"tests": counts, "failed": failed, "skipped because": sorted(map(str, skipped))}


def hand_out(folder: Path, logs: Path) -> None:
    """All that there is so far as one file in $OUT."""
    if not os.environ.get("OUT"):
        return
    with tarfile.open(Path(os.environ["OUT"]) / "gpu_results.tgz", "w:gz") as archive:
        for path in [*sorted(folder.glob("gpu_*.json")), *sorted(logs.glob("*.log"))]:
            archive.add(path, path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)


class Round:
    """One run of the script: what has passed, what may still start, and how every piece ended."""

    def __init__(self, options: argparse.Namespace, free: int) -> None:
        self._options = options
        self._free = free
        self._folder, self._logs = results.FOLDER, LOGS
        if options.rehearse:
            self._folder = self._logs = Path(os.environ["REMI_FAST_RESULTS"])
        self._index = Index(self._folder)
        self._end = time.monotonic() + options.within
        self._keeping = Lock()
        self._running: set[int] = set()

    def __call__(self, piece: Piece) -> str:
        """Run the piece, unless it has passed; return how it stands."""
        if self._index.passed(piece) and not self._options.again:
            return f"{PASSED} before, at {self._index.ended[piece.name]['commit']}"
        output = ""
        if reason := unable(piece, self._free, self._options.rehearse):
            ending = {"status": CANNOT, "why": reason}
        elif time.monotonic() + piece.limit > self._end:
            return WAITING
        else:
            print(f"\n== {piece.name}: {piece.what}, {piece.limit} s at most", flush=True)
            ending = run(piece, self._logs, self._options.rehearse, self._running)
            path = self._logs / f"{piece.name}.log"
            output = path.read_text(encoding="utf-8", errors="replace")
        stands = ", ".join(str(value) for value in ending.values())
        with self._keeping:
            if output:
                print(f"\n-- {piece.name}: {stands}", *output.splitlines()[-SHOWN:], sep="\n")
            self._index.record(piece, ending)
            hand_out(self._folder, self._logs)
        return stands

    def side_by_side(self, todo: list[Piece], jobs: int) -> list[str]:
        """How each stands, `jobs` at a time."""
        with ThreadPoolExecutor(jobs) as pool:
            try:
                return list(pool.map(self, todo))
            except KeyboardInterrupt:  # what waits is not started: `map` sees to it
                for process in list(self._running):
                    end(process)
                raise


def go_through(todo: list[Piece], options: argparse.Namespace, free: int) -> dict[str, str]:
    """Run the pieces that have not passed, tests side by side; return how every one stands."""
    this = Round(options, free)
    stands: dict[str, str] = {}
    for are_tests, group in groupby(todo, lambda piece: piece.is_test):
        pieces = list(group)
        ended = this.side_by_side(pieces, options.jobs if are_tests else 1)
        stands |= zip((piece.name for piece in pieces), ended, strict=True)
    return stands


def a_number(text: str) -> int:
    """Of jobs: argparse shows the error."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    made = argparse.ArgumentParser(prog="sh bench/run_gpu.sh", description=__doc__.split("\n")[0])
    made.add_argument("pieces", nargs="*", metavar="PIECE", help="all without; see --plan")
    made.add_argument("--plan", action="store_true", help="print pieces and limits, run nothing")
    made.add_argument("--again", action="store_true", help="also what has passed")
    made.add_argument(
        "--within", type=float, default=float("inf"), metavar="SECONDS",
        help="start no piece whose limit would end later",
    )  # fmt: skip
    made.add_argument(
        "--jobs", type=a_number, default=max(1, min(8, (os.cpu_count() or 1) // 2)), metavar="N",
        help="tests side by side (here %(default)s); what is measured runs alone",
    )  # fmt: skip
    made.add_argument("--limit", type=int, metavar="SECONDS", help="another one, of every piece")
    made.add_argument(
        "--rehearse", action="store_true", help="small forms, anywhere, into build/rehearsal"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """0 if all pieces passed or cannot run here, 1 if not, 2 for bad usage."""
    options = parser().parse_args(arguments)
    try:
        todo = [replace(p, limit=options.limit or p.limit) for p in chosen(options.pieces)]
    except ValueError as error:
        parser().error(str(error))
    if options.plan:
        for piece in todo:
            print(f"{piece.name:<40}{piece.limit:>4} s  {piece.what}")
        print(f"{len(todo)} pieces, {sum(piece.limit for piece in todo)} s at most")
        return 0
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a job that a shell runs behind it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    free = free_gpu_memory()
    if not free and not options.rehearse:
        print("no GPU here; --rehearse runs the small forms anywhere", file=sys.stderr)
        return 1
    if options.rehearse:
        os.environ.setdefault("REMI_FAST_RESULTS", str(REHEARSAL))
        options.again = True
    stands = go_through(todo, options, free)
    print()
    for name, how in stands.items():
        print(f"{name:<40}{how}")
    fine = all(how.startswith((PASSED, CANNOT)) for how in stands.values())
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
