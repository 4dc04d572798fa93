"""Replays what was found once, then opens damaged inputs; fails where something is found."""

import argparse
import sys
from pathlib import Path
from random import Random

from tests.fuzz.runner import Report, run
from tests.fuzz.targets import TARGETS, Files, Target, content_of

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """The exit status: 0 if nothing is found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make, found = TARGETS[options.target], CORPUS / options.target
    old = [content_of(folder) for folder in sorted(found.glob("*"))]
    replayed = run(make, lambda target, number: old[number], len(old), keep=None)

    def damaged(target: Target, number: int) -> Files:
        return target.damage(Random(f"{options.seed} {number}"), target.good)

    fuzzed = run(make, damaged, options.inputs, found)
    say("corpus", replayed)
    say(f"seed {options.seed}", fuzzed)
    return 1 if replayed.findings or fuzzed.findings else 0


def say(what: str, report: Report) -> None:
    print(f"{what}: {report}", *report.findings, sep="\n")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
