"""Runs the mutants; fails unless every one is killed, and no test fails with nothing planted."""

import argparse
import os
import sys

from .planted import MUTANTS, nothing
from .runner import run


def main() -> int:
    """The exit status: 0 if all is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="those with this in their name")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth of them")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N")
    options = parser.parse_args()
    mutants = [m for m in MUTANTS if options.only in m.name][:: options.every]
    control = nothing(mutants)
    wrong = 0
    for result in run([control, *mutants], options.jobs):
        wanted = "survived" if result.mutant is control else "killed"
        wrong += result.verdict != wanted
        mark = " " if result.verdict == wanted else "!"
        name, detail = result.mutant.name, result.detail
        line = f"{mark} {result.verdict:9} {result.seconds:5.1f} s  {name}: {detail}"
        print(line, flush=True)  # noqa: T201
    print(f"{len(mutants)} mutants, {wrong} not as they should be")  # noqa: T201
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
