"""Whole training steps, as `remi-fast bench` measures them, where only torch and NumPy are there.

    python -m bench.whole_steps --batch-size 128 1024 --num-items 368000 --save gpu_steps

The options are those of `remi-fast bench` (docs/benchmark.md). Each case is
saved when it is there.
"""

import argparse
from typing import Any

from bench import results
from remi_fast.benchmark.steps import REMI
from remi_fast.cli import bench


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    bench.add_arguments(parser)  # type: ignore[arg-type]
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    cases: list[dict[str, Any]] = []
    for case in bench.measured(arguments):
        cases.append(case)
        print(f"\nbatch {case['batch_size']:,}, {case['items']:,} items")
        results.show(case["contestants"], REMI)
        print({name: value for name, value in case.items() if name != "contestants"})
        if arguments.save:
            found = {"threads": arguments.threads, "cases": cases}
            path = results.save(arguments.save, found)
    if arguments.save:
        print(path)


if __name__ == "__main__":
    main()
