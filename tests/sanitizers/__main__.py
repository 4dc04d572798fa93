"""Builds the extension with a sanitizer and runs what tests it; fails unless all is well.

The controls come first: bugs planted in a copy of csrc have to be reported.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .build import BUILT, ROOT, Planted, build, build_planted, environment, python

# Not about csrc, slow, or with limits on memory and time that a sanitizer breaks.
LEFT_OUT = (
    "mutants",
    "sanitizers",
    "fuzz",
    "reliability",
    "kernels/test_compile.py",
    "report/test_browser.py",
)
LONG_KEYS = "not second_copy"  # the memory of a process
SHORT = (
    "data/test_loader.py",
    "kernels/test_self_attentive.py",
    "kernels/test_deferred_adam.py",
    "training/test_dense_adam.py",
)
SLOW = "triton or python_threads or is_dense_adam or millionth or series or budget or than_torch"
SHORT_KEYS = f"not ({SLOW})"

MAKE = """
import numpy as np, _remi_fast_C as C
def made(*shape): return np.ones(shape, np.float32)
"""


class Control(NamedTuple):
    """A bug, code that meets it, and what the sanitizer says then."""

    bug: Planted
    code: str
    report: str


# All in the extractor and what it includes: little to compile.
CONTROLS = {
    "address": (
        Control(
            Planted("csrc/self_attentive.cpp", "uint32_t exponent;", "int32_t exponent;"),
            "C.tanh_project(made(3, 5), made(2, 5), made(3, 2))",
            "runtime error: left shift",
        ),
        Control(
            Planted(
                "csrc/self_attentive.cpp",
                "j < width; ++j) grad_hidden[j] *=",
                "j <= width; ++j) grad_hidden[j] *=",
            ),
            "C.tanh_project_backward(made(3, 5), made(2, 5), made(3, 2), made(3, 5))",
            "heap-buffer-overflow",
        ),
    ),
    "thread": (
        Control(
            Planted(
                "csrc/thread_pool.hpp",
                "int64_t take() {\n        std::lock_guard<std::mutex> lock(mutex_);",
                "int64_t take() {",
            ),
            "for _ in range(1000): C.tanh_project(made(99, 5), made(2, 5), made(99, 2))",
            "data race",
        ),
    ),
}


def main() -> int:
    """The exit status: 0 if all is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitizers", description=__doc__)
    parser.add_argument("sanitizer", choices=CONTROLS)
    parser.add_argument("--short", action="store_true", help="what `make test` has time for")
    options = parser.parse_args()
    passed = controls_are_reported(options.sanitizer)
    extension = build(options.sanitizer)
    check = {"address": suite, "thread": schedules}[options.sanitizer]
    return 0 if check(extension, options.short) and passed else 1


def controls_are_reported(sanitizer: str) -> bool:
    """Whether each planted bug is; and nothing where there is none."""
    controls = CONTROLS[sanitizer]
    missed = 0
    with tempfile.TemporaryDirectory() as tree:
        bugs = [control.bug for control in controls]
        extension = build_planted(sanitizer, bugs, ["self_attentive"], Path(tree))
        for control in controls:
            done = run(sanitizer, ["-c", MAKE + control.code], extension)
            found = done.returncode != 0 and control.report in done.stdout + done.stderr
            missed += not found
            say(f"control, {control.report}: {'reported' if found else 'NOT REPORTED'}")
    return missed == 0


def suite(extension: Path, short: bool) -> bool:
    """Every entry point by itself, then the tests."""
    done = run(
        "address", ["-m", "tests.kernels.entry_points", "20" if short else "1000"], extension
    )
    say(f"entry points: {'passed' if done.returncode == 0 else done.stdout + done.stderr}")
    if short:
        chosen = [*(f"tests/{path}" for path in SHORT), "-k", SHORT_KEYS]
    else:
        chosen = ["tests", *(f"--ignore=tests/{path}" for path in LEFT_OUT), "-k", LONG_KEYS]
    command = ["-m", "pytest", "-q", "-p", "tests.sanitizers.loaded", "-p", "no:cacheprovider"]
    tests = run("address", [*command, *chosen], extension, capture=False)
    return done.returncode == tests.returncode == 0


def schedules(extension: Path, short: bool) -> bool:
    """Random schedules of everything that has threads."""
    jitter = BUILT / "jitter.so"
    command = ["gcc", "-O1", "-fPIC", "-shared", str(ROOT / "tests/sanitizers/jitter.c")]
    subprocess.run([*command, "-o", str(jitter)], check=True)
    program = ["tests/sanitizers/schedules.py", str(jitter), "10" if short else "100"]
    done = run("thread", program, extension, preload=[jitter])
    say(done.stdout + done.stderr)
    return done.returncode == 0 and str(extension) in done.stdout


def run(
    sanitizer: str,
    arguments: Sequence[str],
    extension: Path,
    preload: Sequence[Path] = (),
    capture: bool = True,
) -> subprocess.CompletedProcess[str]:
    command = [*python(sanitizer), *arguments]
    variables = environment(sanitizer, extension, *preload)
    return subprocess.run(command, cwd=ROOT, env=variables, text=True, capture_output=capture)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line.rstrip()}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
