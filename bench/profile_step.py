"""Where the time of a training step goes: cProfile over Python and the C++ calls it makes.

python -m bench.profile_step --save profile_step_cpu_368k
"""

import argparse
import cProfile
import pstats

from bench import results
from remi_fast.benchmark.steps import Data, ours
from remi_fast.config import Config
from remi_fast.training.trainer import set_threads

CALLS, SHOWN = 1000, 25


def main() -> None:
    """Profile, print and save milliseconds a step by function."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=368_000)
    parser.add_argument("--save", help="name in bench/results/; not saved without it")
    arguments = parser.parse_args()
    set_threads(0)
    contestant = ours(Data(arguments.items, 100_000), Config())
    run, steps = contestant.run, CALLS * contestant.steps
    for _ in range(CALLS):
        run()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(CALLS):
        run()
    profile.disable()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own = {}
    for (file, line, name), (_, _, seconds, _, _) in stats.items():
        where = "" if file == "~" else f"{file.rsplit('/', 1)[-1]}:{line} "
        own[f"{where}{name}"] = own.get(f"{where}{name}", 0.0) + 1e3 * seconds / steps
    ranked = sorted(own.items(), key=lambda pair: -pair[1])
    total = sum(own.values())
    print(f"{total:.2f} ms a step under the profiler")
    for name, value in ranked[:SHOWN]:
        print(f"{value:8.3f} ms {100 * value / total:5.1f} %  {name}")
    if arguments.save:
        rounded = {name: round(value, 4) for name, value in ranked[:SHOWN]}
        print(results.save(arguments.save, {"total_ms": total, "own_ms_per_step": rounded}))


if __name__ == "__main__":
    main()
