"""Plants each mutant in a copy of the source and runs the tests that must fail there.

torch and Triton are imported once, before a process is forked for each mutant. The interpreter
runs the kernels, on a machine with a GPU, too, which a forked process could not use.
"""

import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

os.environ |= {
    "TRITON_INTERPRET": "1",  # before the first import of triton
    "CUDA_VISIBLE_DEVICES": "",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}

import hypothesis  # noqa: F401  imported once, here, for all the forked processes
import pytest
import torch
import torch._dynamo  # noqa: F401
import triton  # noqa: F401

from . import extension

ROOT = Path(__file__).parents[2]
FORK = get_context("fork")
TIMEOUT = 60.0  # seconds a test
BUILD_TIMEOUT = 300.0
OPTIONS = ["-x", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:warnings"]
# What a wrongly typed mutant raises: no test has found anything then.
TYPING_ERRORS = (SyntaxError, NameError, AttributeError, ImportError)


@dataclass(frozen=True)
class Mutant:
    """`new` in the place of `old`, which is found once in `file`; one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    by_signal: bool = False  # the test reads memory that is not there: its process dies

    @property
    def compiled(self) -> bool:
        """Whether it is in the extension."""
        return self.file.startswith("csrc/")

    @property
    def timeout(self) -> float:
        """Seconds for all it takes."""
        return TIMEOUT * len(self.tests) + BUILD_TIMEOUT * self.compiled


class Result(NamedTuple):
    """What became of a mutant; only "killed" is as it should be."""

    mutant: Mutant
    verdict: str
    detail: str
    seconds: float


class Stale(Exception):
    """The text that a mutant replaces is not in its file, or not once."""


def run(mutants: Sequence[Mutant], jobs: int) -> Iterator[Result]:
    """Results as they come; `jobs` processes at a time. Raises Stale before the first."""
    for mutant in mutants:
        mutated((ROOT / mutant.file).read_text(), mutant)
    if any(mutant.compiled for mutant in mutants):
        extension.objects()  # once, for all of them
    torch.set_num_threads(1)  # threads do not outlive a fork
    waiting, running = list(mutants), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Run(waiting.pop(0)))
            wait([r.answer for r in running], timeout=1)
            for done in [r for r in running if r.answer.poll() or r.is_late()]:
                running.remove(done)
                yield done.result()
    finally:
        for left in running:
            left.end()


class _Run:
    """One mutant's process."""

    def __init__(self, mutant: Mutant):
        self.mutant = mutant
        self.start = time.monotonic()
        self.answer, question = FORK.Pipe(duplex=False)
        self.directory = tempfile.TemporaryDirectory(prefix="mutant-")
        tree = Path(self.directory.name)
        self.process = FORK.Process(target=_judge, args=(mutant, tree, question))
        self.process.start()
        question.close()  # or a process that dies would be waited for

    def is_late(self) -> bool:
        return time.monotonic() - self.start > self.mutant.timeout

    def result(self) -> Result:
        try:
            verdict, detail = self.answer.recv() if self.answer.poll() else ("timed out", "")
        except EOFError:
            self.process.join()
            died = self.process.exitcode == -signal.SIGSEGV
            verdict = "killed" if died and self.mutant.by_signal else "crashed"
            detail = f"exit code {self.process.exitcode}"
        self.end()
        return Result(self.mutant, verdict, detail, time.monotonic() - self.start)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.directory.cleanup()


def _judge(mutant: Mutant, tree: Path, question: Connection) -> None:
    """The verdict on a mutant into `question`; in a process of its own."""
    with open(tree / "output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        plant(mutant, tree)
        question.send(_verdict(tree, mutant))
    except Exception as error:
        question.send(("broken", repr(error)))
    os._exit(0)


def plant(mutant: Mutant, tree: Path) -> None:
    """Make `tree` a small checkout with the mutant in it, to run tests in."""
    packages = "bench", "csrc", "kernels", "remi_fast", "tests"  # remi_fast/kernels is a link: kept
    for package in packages:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tree / package, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tree)
    file = tree / mutant.file
    file.write_text(mutated(file.read_text(), mutant))
    if mutant.compiled:
        extension.build(tree, mutant.file)


def mutated(source: str, mutant: Mutant) -> str:
    """The source with the mutant in it. Raises Stale unless its place is found, once."""
    if (found := source.count(mutant.old)) != 1:
        raise Stale(f"{mutant.name}: found {found} times in {mutant.file}: {mutant.old!r}")
    return source.replace(mutant.old, mutant.new)


def _verdict(tree: Path, mutant: Mutant) -> tuple[str, str]:
    os.chdir(tree)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # of the checkout
    for name in ["remi_fast.kernels.ihn_loss_op"] + ["_remi_fast_C"] * mutant.compiled:
        module = importlib.import_module(name)
        assert Path(module.__file__).is_relative_to(tree), f"{name}: not the copy is imported"
    witness = _Witness()
    code = pytest.main([*OPTIONS, f"--rootdir={tree}", *mutant.tests], plugins=[witness])
    if witness.broken:
        return "broken", witness.broken[0]
    if witness.failures:
        return "killed", witness.failures[0]
    return ("survived" if code == pytest.ExitCode.OK else "broken"), f"pytest ended with {code!r}"


class _Witness:
    """A pytest plugin: which tests failed, and what is no failure of a test."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.broken: list[str] = []

    def pytest_runtest_makereport(self, item, call) -> None:
        if call.excinfo is None:
            return
        error = call.excinfo.value
        while error.__cause__ is not None:  # Triton's interpreter wraps what a kernel raises
            error = error.__cause__
        found = f"{item.name}: {type(error).__name__}"
        if call.when == "call" and not isinstance(error, TYPING_ERRORS):
            self.failures.append(found)
        else:
            self.broken.append(f"{found}: {error}")
