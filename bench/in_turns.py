"""What `remi-fast bench` measures, saved case by case, where only torch and NumPy are there.

    python -m bench.in_turns step --batch-size 128 1024 --num-items 368000 --save gpu_steps

Parts (but "all") and options are those of `remi-fast bench` (docs/benchmark.md).
"""

import argparse
from typing import Any

from bench import results
from remi_fast.cli.bench import all as every_part
from remi_fast.cli.bench.common import measured, module_of


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for part in every_part.PARTS:
        options = parts.add_parser(part)
        module_of(part).add_arguments(options)
        options.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    for name in ("out", "json", "picture"):
        if getattr(arguments, name, None):
            parser.error(f"--{name}: `remi-fast bench` has it; --save NAME keeps the result here")
    cases: list[dict[str, Any]] = []
    for case in measured({arguments.part: arguments}):
        cases.append(case)
        print()
        results.show(case["contestants"])
        print({name: value for name, value in case.items() if name != "contestants"})
        if arguments.save:
            found = {"threads": arguments.threads, "cases": cases}
            path = results.save(arguments.save, found)
    if arguments.save:
        print(path)


if __name__ == "__main__":
    main()
